"""Looks at an inbox's quota: quota.py HOST PORT USER [remove].  With "remove" its first message is removed before that. Writes a JSON object."""

import imaplib
import json
import re
import sys

host, port, user, *remove = sys.argv[1:]
with imaplib.IMAP4(host, int(port)) as imap:
    imap.login(user, "secret")
    imap.select("INBOX")
    if remove:
        imap.store("1", "+FLAGS", "\\Deleted")
        imap.expunge()
    _, (_, quotas) = imap.getquotaroot("INBOX")
    # In KiB, rounded up (RFC 9208 section 5.1).
    usage, limit = re.search(rb"STORAGE (\d+) (\d+)", quotas[0]).groups()
    print(json.dumps({"usage": int(usage), "limit": int(limit)}))
