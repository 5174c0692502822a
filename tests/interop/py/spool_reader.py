"""Reads a stopped server's spool by docs/spool.md alone: spool_reader.py SPOOL  Writes one line of JSON a message, ordered by id."""

import datetime
import io
import json
import pathlib
import struct
import sys
import zlib

STATES = ["pending", "deferred", "delivered", "bounced", "expanded", "removed"]

class Description(io.BytesIO):
    def byte(self):
        return self.read(1)[0]
    def number(self):
        byte, value, shift = self.byte(), 0, 0
        while byte & 128:
            value, shift, byte = value | (byte & 127) << shift, shift + 7, self.byte()
        return value | byte << shift
    def text(self):
        return self.read(self.number()).decode()
    def status(self):
        state, attempts, due = self.byte(), self.number(), self.number()
        code = self.byte() and (self.number(), self.number())
        cause, reply, hop = self.byte(), self.text(), self.text()
        asked = self.byte() if state & 128 else 0
        original = asked & 16 and (self.text(), self.text())
        return STATES[state & 127]
    def request(self):
        asked = self.byte()
        envid = asked & 16 and self.text()
        deliver_by, hold = (asked & flag and (self.byte(), self.number()) for flag in (32, 64))
        priority = asked & 128 and self.byte() - 9
    def recipients(self):
        found = ((self.text(), self.text(), self.status()) for _ in range(self.number()))
        return [{"address": address, "state": state} for address, original, state in found]
    def message(self):
        arrived, size, sender = self.number(), self.number(), self.text()
        body, held, notices = self.byte(), self.byte(), self.number()
        request, origin = body & 128 and self.request(), body & 64 and self.text()
        time = datetime.datetime.fromtimestamp(arrived // 1000, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"sender": sender, "size": size, "arrived": time, "recipients": self.recipients()}
    def change(self, message):
        notices, before = self.byte() & 4 and self.number(), self.number()
        statuses = [(self.number(), self.status()) for _ in range(self.number())]
        added, known = self.recipients(), message["recipients"] if message else []
        if message and before <= len(known):
            for index, state in (pair for pair in statuses if pair[0] < before):
                known[index]["state"] = state
            known += added[len(known) - before :]

def header(block):
    for copy in (block[:72], block[2048:2120]):
        if copy[:8] == b"\xf5PHSEG\r\n" and zlib.crc32(copy[:68]) == int.from_bytes(copy[68:], "little"):
            version, identity, number, prior, end, sequence = struct.unpack_from("<H2x8sQQQQ", copy, 8)
            assert 1 <= version <= 3, f"segment {number} has the unknown version {version}"
            return {"identity": identity, "prior": prior, "end": end, "sequence": sequence}

def record(octets, at, end, identity):
    magic, version, kind, flags, length, content, sequence, number, check, own = struct.unpack_from("<4sBBHIIQQII", octets, at)
    size, payload = 40 + content + length, octets[at + 40 : at + 40 + content + length]
    whole = magic == b"\xf5PHR" and zlib.crc32(identity + octets[at : at + 36]) == own and at + size <= end
    if whole and zlib.crc32(payload) == check and 1 <= version <= 3:
        return {"kind": kind, "flags": flags, "sequence": sequence, "id": number, "size": size, "text": payload[content:]}

def records(octets, end, sealed, identity, last):
    at, sure, doubtful, damaged = 4096, [], [], False
    while 0 <= at <= end - 40:
        found = record(octets, at, end, identity)
        if not found or found["sequence"] <= last:
            at, damaged = octets.find(b"\xf5PHR", at + 1), not sealed
            continue
        at, last = at + found["size"], found["sequence"]
        damaged = damaged and not found["flags"] & 1  # what stands before the first record of a batch was durable
        sure, doubtful = (sure, doubtful + [found]) if damaged else (sure + doubtful + [found], [])
    return sure

files = {int(path.stem): path.read_bytes() for path in pathlib.Path(sys.argv[1], "log").glob("*.seg")}
headers = {number: found for number, octets in sorted(files.items()) if (found := header(octets))}
ends = {found["prior"]: found["end"] for found in headers.values()}
messages, last = {}, 0
for number, octets in sorted(files.items()):
    last = max(last, headers[number]["sequence"] - 1 if number in headers else 0)
    end, identity = min(ends.get(number, len(octets)), len(octets)), next(iter(headers.values()))["identity"]
    for found in records(octets, end, number in ends, identity, last):
        last, text = found["sequence"], Description(found["text"])
        if found["kind"] == 1:
            messages[found["id"]] = text.message()
            checksum, length = found["flags"] & 2 and text.read(4), found["flags"] & 6 == 6 and text.number()
            for _ in range(text.number()):
                text.change(messages.get(text.number()))
        elif found["kind"] == 2:
            text.change(messages.get(found["id"]))
        else:
            messages.pop(found["id"], None)
for number, message in sorted(messages.items()):
    digits = ("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[number >> 5 * place & 31] for place in range(12, -1, -1))
    print(json.dumps({"id": "".join(digits)} | message))
