"""Logs in and sends one message: login.py LIBRARY HOST PORT MODE USER PASSWORD TO  LIBRARY is smtplib or aiosmtplib, MODE starttls or
implicit. Writes what became of it as JSON."""

import asyncio
import json
import smtplib
import ssl
import sys
from email.message import EmailMessage

LIBRARY, HOST, PORT, MODE, USER, PASSWORD, TO = sys.argv[1:]


def context():
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def message():
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = USER, TO, f"from {LIBRARY}"
    made.set_content("Grüße\n.\nend\n", cte="8bit")
    return made


def by_smtplib():
    if MODE == "implicit":
        client = smtplib.SMTP_SSL(HOST, int(PORT), local_hostname="python.test", context=context())
    else:
        client = smtplib.SMTP(HOST, int(PORT), local_hostname="python.test")
        client.ehlo()
        assert not client.has_extn("auth"), "AUTH is offered in clear text"
        client.starttls(context=context())
    with client:
        client.login(USER, PASSWORD)
        return client.send_message(message())


def by_aiosmtplib():
    import aiosmtplib

    sending = aiosmtplib.send(
        message(), hostname=HOST, port=int(PORT), username=USER, password=PASSWORD, tls_context=context(),
        use_tls=MODE == "implicit", start_tls=MODE == "starttls", local_hostname="python.test",
    )
    return asyncio.run(sending)[0]


try:
    print(json.dumps({"refused": by_smtplib() if LIBRARY == "smtplib" else by_aiosmtplib()}))
except Exception as error:  # Both libraries have classes of their own.
    print(json.dumps({"error": type(error).__name__, "code": getattr(error, "smtp_code", getattr(error, "code", None))}))
