"""Reads notices as foreign programs do: notices.py FILE…  Writes a JSON list of what Python's email package and flufl.bounce see."""

import email
import email.policy
import email.utils
import json
import pathlib
import sys

from flufl.bounce import all_failures


def defects(part):
    found = [f"{part.get_content_type()}: {defect!r}" for defect in part.defects]
    for name, value in part.items():
        found += [f"{name}: {defect!r}" for defect in getattr(value, "defects", [])]
    if part.is_multipart():
        for inner in part.get_payload():
            found += defects(inner)
    return found


def fields(block):
    return {name.lower(): str(value) for name, value in block.items()}


def read(name):
    content = pathlib.Path(name).read_bytes()
    message = email.message_from_bytes(content, policy=email.policy.default)
    # flufl.bounce wants the older kind of message.
    temporary, permanent = all_failures(email.message_from_bytes(content))
    text, status, original = message.get_payload()
    return {
        "defects": defects(message),
        "longest_line": max(len(line) for line in content.split(b"\r\n")),
        "eight_bit": any(byte > 127 for byte in content),
        "header": fields(message),
        "date": email.utils.parsedate_to_datetime(message["Date"]).timestamp(),
        "type": message.get_content_type(),
        "report_type": message.get_param("report-type"),
        "parts": [part.get_content_type() for part in (text, status, original)],
        "text": text.get_content(),
        "status": [fields(block) for block in status.get_payload()],
        "original": fields(email.message_from_bytes(original.get_payload(decode=True), policy=email.policy.default)),
        "temporary": sorted(address.decode() for address in temporary),
        "permanent": sorted(address.decode() for address in permanent),
    }


print(json.dumps([read(name) for name in sys.argv[1:]]))
