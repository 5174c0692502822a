#!/usr/bin/env python3
"""The disk that the spool takes while mail comes and goes as fast as it can, one message in a hundred staying for days.

    benches/space.py PROGRAM --seconds 300 --sessions 20 --dir /mnt/disk

Looks once a second at what the spool's files take (blocks, as `du`), and at what lives in it by `queue stats`: the bound is twice that and
two segments (docs/spool.md). Prints the largest share of the bound, and a line every --every seconds. Client, next hop and server share
the machine; the next hop takes mail as fast as it can, so what is on its way is little beside what stays.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

from server import Server, free_port, route

LIMITS = "commands = 1000000000"
CONTENT = b"Subject: bench\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 56 + b".\r\n"
STAYS = 100


def replies(lines, count):
    for _ in range(count):
        line = lines.readline()
        if line[:1] not in b"23" or not line:
            raise ConnectionError(line)


def load(port, sent, stop):
    """Sends until told to stop; every hundredth message to a destination that refuses connections."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection, connection.makefile("rb") as lines:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies(lines, 1)
        connection.sendall(b"HELO client.test\r\n")
        replies(lines, 1)
        while not stop.is_set():
            with sent.get_lock():
                sent.value += 1
                stays = sent.value % STAYS == 0
            to = b"stay" if stays else b"far"
            for line in (b"MAIL FROM:<a@bench.test>\r\n", b"RCPT TO:<b@" + to + b".test>\r\n", b"DATA\r\n", CONTENT):
                connection.sendall(line)
                replies(lines, 1)


def take(connection):
    """The next hop's side of a connection."""
    with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as lines:
        connection.sendall(b"220 hop\r\n")
        while line := lines.readline():
            if line.startswith(b"DATA"):
                connection.sendall(b"354 go\r\n")
                while lines.readline() != b".\r\n":
                    pass
            connection.sendall(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 ok\r\n")


def hop(listener):
    while True:
        threading.Thread(target=take, args=(listener.accept()[0],), daemon=True).start()


def used(folder):
    """Bytes that the files below a folder take on disk, by its subfolders."""
    by_folder = {}
    for path, _, names in os.walk(folder):
        part = os.path.relpath(path, folder).split("/")[0]
        for name in names:
            try:
                by_folder[part] = by_folder.get(part, 0) + os.lstat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return by_folder


def living(server):
    """Messages in the queue and their octets of content."""
    words = [server.program, "--config", server.config, "queue", "stats", "--json"]
    rows = [json.loads(line) for line in subprocess.run(words, check=True, capture_output=True).stdout.splitlines()]
    total = next(row for row in rows if row["by"] == "total")
    return total["messages"], total["bytes"]


def watch(args, server, spool, sent):
    worst, samples, begun, said = (0.0, ""), 0, time.monotonic(), 0.0
    while (now := time.monotonic() - begun) < args.seconds:
        # What lives is counted on both sides of the look at the disk: it moves.
        before, disk, after = living(server), used(spool), living(server)
        (messages, live), total = max(before, after), sum(disk.values())
        bound = 2 * live + 2 * args.segment * 1024 * 1024
        parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(disk.items()))
        line = (f"{now:.0f} s: {sent.value} sent, {messages} wait with {live / 1e6:.1f} MB; {total / 1e6:.1f} MB on disk ({parts}), "
                f"{100 * total / bound:.0f} % of {bound / 1e6:.1f} MB")
        worst, samples = max(worst, (total / bound, line)), samples + 1
        if now >= said:
            print(line, flush=True)
            said += args.every
        time.sleep(1)
    print(f"{samples} looks, {sent.value / args.seconds:.0f} messages/s; the most was\n{worst[1]}")
    return worst[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--every", type=float, default=30)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--segment", type=int, default=64, help="MiB")
    parser.add_argument("--dir")
    args = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=500)
    next_hop = multiprocessing.Process(target=hop, args=(listener,), daemon=True)
    next_hop.start()
    sent, stop = multiprocessing.Value("q", 0), multiprocessing.Event()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        routes = route("stay.test", f"127.0.0.1:{free_port()}") + route("far.test", f"127.0.0.1:{listener.getsockname()[1]}")
        os.environ["POSTHOUSE_SPOOL__SEGMENT_SIZE"] = f"{args.segment}MiB"
        server = Server(args.program, folder, LIMITS, routes)
        clients = [multiprocessing.Process(target=load, args=(server.port, sent, stop), daemon=True) for _ in range(args.sessions)]
        for client in clients:
            client.start()
        share = watch(args, server, pathlib.Path(folder) / "spool", sent)
        stop.set()
        for client in clients:
            client.join(10)
        server.stop()
    next_hop.terminate()
    raise SystemExit(share > 1)


if __name__ == "__main__":
    main()
