"""Sends files on one connection: send.py HOST PORT FROM TO,TO… FILE…  Writes a JSON list with what became of each."""

import json
import pathlib
import re
import smtplib
import sys


class Client(smtplib.SMTP):
    """smtplib, but the content goes out as it is (it would mend line ends), and the last reply is kept."""

    last = (0, b"")

    def getreply(self):
        self.last = super().getreply()
        return self.last

    def send_file(self, sender, recipients, content):
        self.ehlo_or_helo_if_needed()
        assert self.has_extn("8bitmime") and self.has_extn("size") and self.has_extn("pipelining"), self.esmtp_features
        assert self.has_extn("enhancedstatuscodes"), self.esmtp_features
        return self.sendmail(sender, recipients, content, ["BODY=8BITMIME"])


def status(reply):
    code, text = reply
    return [code, text.decode().split()[0]]


def main():
    host, port, sender, recipients, *files = sys.argv[1:]
    report = []
    with Client(host, int(port), local_hostname="python.test") as client:
        for name in files:
            content = pathlib.Path(name).read_bytes()
            entry = {"error": None}
            try:
                refused = client.send_file(sender, recipients.split(","), content)
                entry["refused"] = {address: status(reply) for address, reply in refused.items()}
                entry["code"] = client.last[0]
                entry["id"] = re.search(rb"queued as (\S+)", client.last[1]).group(1).decode()
            except smtplib.SMTPRecipientsRefused as error:
                entry["error"] = type(error).__name__
                entry["refused"] = {address: status(reply) for address, reply in error.recipients.items()}
            except smtplib.SMTPResponseException as error:
                entry["error"] = type(error).__name__
                entry["code"] = error.smtp_code
            report.append(entry)
    print(json.dumps(report))


main()
