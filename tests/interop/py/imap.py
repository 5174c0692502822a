"""Reads an inbox: imap.py HOST PORT USER FOLDER.  Writes each message to a file in FOLDER, and a JSON list of what the server says."""

import email
import email.policy
import imaplib
import json
import pathlib
import re
import sys
import time

host, port, user, folder = sys.argv[1:]
report = []
with imaplib.IMAP4(host, int(port)) as imap:
    imap.login(user, "secret")
    imap.select("INBOX", readonly=True)
    _, numbers = imap.search(None, "ALL")
    for number in numbers[0].split():
        _, data = imap.fetch(number, "(FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])")
        about, content = data[0][0].decode(), data[0][1]
        about += "".join(part.decode() for part in data[1:] if isinstance(part, bytes))
        file = pathlib.Path(folder) / f"{user}-{number.decode()}"
        file.write_bytes(content)
        date = imaplib.Internaldate2tuple(about.encode())
        flags = [flag for flag in re.search(r"FLAGS \((.*?)\)", about).group(1).split() if flag != "\\Recent"]
        report.append({
            "file": str(file),
            "subject": email.message_from_bytes(content, policy=email.policy.SMTP)["Subject"],
            "size": int(re.search(r"RFC822.SIZE (\d+)", about).group(1)),
            "age": time.time() - time.mktime(date),
            "flags": " ".join(flags),
        })
print(json.dumps(report))
