"""Reads notices as foreign programs do: notices.py FILE…  Writes a JSON list of what Python's email package and flufl.bounce see."""

import email
import email.policy
import email.utils
import json
import pathlib
import sys
from email.errors import NonASCIILocalPartDefect

from flufl.bounce import all_failures


def defects(part):
    found = [f"{part.get_content_type()}: {defect!r}" for defect in part.defects]
    for name, value in part.items():
        # The package has no other word for what RFC 6532 allows.
        faults = [defect for defect in getattr(value, "defects", []) if not isinstance(defect, NonASCIILocalPartDefect)]
        found += [f"{name}: {defect!r}" for defect in faults]
    if part.is_multipart():
        for inner in part.get_payload():
            found += defects(inner)
    return found


def fields(block):
    return {name.lower(): str(value) for name, value in block.items()}


def parse(content):
    # Headers beyond ASCII (RFC 6532) are read from text: from bytes they would be taken for damage.
    if content.isascii():
        return email.message_from_bytes(content, policy=email.policy.default)
    return email.message_from_string(content.decode(), policy=email.policy.SMTPUTF8)


def blocks(status):
    """The groups of fields of a part for machines. The package knows message/delivery-status alone (RFC 3464); another kind of
    message (RFC 6533) has the first group for its header."""
    if status.get_content_type() == "message/delivery-status":
        return [fields(block) for block in status.get_payload()]
    [first] = status.get_payload()
    rest = [block for block in first.get_payload().replace("\r\n", "\n").split("\n\n") if block.strip()]
    return [fields(first)] + [fields(email.message_from_string(block, policy=email.policy.SMTPUTF8)) for block in rest]


def original_of(part):
    if part.is_multipart():
        return fields(part.get_payload()[0])
    return fields(email.message_from_bytes(part.get_payload(decode=True), policy=email.policy.default))


def read(name):
    content = pathlib.Path(name).read_bytes()
    message = parse(content)
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
        "status": blocks(status),
        "original": original_of(original),
        "temporary": sorted(address.decode() for address in temporary),
        "permanent": sorted(address.decode() for address in permanent),
    }


print(json.dumps([read(name) for name in sys.argv[1:]]))
