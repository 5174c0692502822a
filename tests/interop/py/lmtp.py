"""Delivers a file by LMTP: lmtp.py HOST:PORT|/SOCKET FROM TO,TO… FILE.  Writes the replies as JSON: RCPT's by address, and behind
the content one for each recipient that was taken."""

import json
import pathlib
import smtplib
import sys


def main():
    address, sender, recipients, file = sys.argv[1:]
    content = pathlib.Path(file).read_bytes()
    host, _, port = (address, "", 0) if address.startswith("/") else address.rpartition(":")
    with smtplib.LMTP(host, int(port), local_hostname="python.test") as client:
        client.ehlo_or_helo_if_needed()
        report = {"extensions": sorted(client.esmtp_features), "rcpt": {}, "replies": []}
        assert client.mail(sender, ["BODY=8BITMIME"])[0] == 250
        for recipient in recipients.split(","):
            report["rcpt"][recipient] = client.rcpt(recipient)[0]
        # smtplib reads one reply behind the content; LMTP has one for each recipient.
        replies = [client.data(content)]
        while len(replies) < list(report["rcpt"].values()).count(250):
            replies.append(client.getreply())
        report["replies"] = [[code, text.decode()] for code, text in replies]
        assert client.noop()[0] == 250
    # The short way, for the usual single recipient.
    with smtplib.LMTP(host, int(port), local_hostname="python.test") as client:
        assert client.sendmail(sender, recipients.split(",")[:1], content) == {}
    print(json.dumps(report))


main()
