#!/usr/bin/env python3
"""The disk that the spool takes while mail comes and goes as fast as it can, one message in a hundred staying for days.

    benches/space.py PROGRAM --seconds 300 --sessions 20 --dir /mnt/disk
    benches/space.py PROGRAM --stays 430 --seconds 120            # so many MB lie there first, and stay
    benches/space.py PROGRAM --behind 80 --seconds 180            # the next hop takes little for so many seconds, then what it can
    benches/space.py PROGRAM OTHER --rounds 2 --stays 430 ...     # in turns: the rate and latency of reception beside copying

Looks once a second at what the spool's files take (blocks, as `du`), and at what lives in it by `queue stats`: the bound is twice that and
two segments (docs/spool.md). Prints the largest share of the bound, and a line every --every seconds; what is written for a byte of
mail tells how much it copies (as the disk counts it, others' writing included). Client, next hop and server share the machine.
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
LINE = b"0123456789" * 7 + b"\r\n"
STAYS = 100
# While the next hop has fallen behind it takes so long for a message.
BEHIND = 0.2
# Latencies are counted by powers of two of microseconds.
BUCKETS = 32


def replies(lines, count):
    for _ in range(count):
        line = lines.readline()
        if line[:1] not in b"23" or not line:
            raise ConnectionError(line)


def content(size):
    return b"Subject: bench\r\n\r\n" + LINE * (size // len(LINE)) + b".\r\n"


def load(port, size, sent, latencies, stop, until=None):
    """Sends until told to stop; every hundredth message, or all up to a number, to a destination that refuses connections."""
    message = content(size)
    with socket.create_connection(("127.0.0.1", port), 60) as connection, connection.makefile("rb") as lines:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        replies(lines, 1)
        connection.sendall(b"HELO client.test\r\n")
        replies(lines, 1)
        while not stop.is_set():
            with sent.get_lock():
                if until is not None and sent.value >= until:
                    return
                sent.value += 1
                stays = until is not None or sent.value % STAYS == 0
            to = b"stay" if stays else b"far"
            for line in (b"MAIL FROM:<a@bench.test>\r\n", b"RCPT TO:<b@" + to + b".test>\r\n", b"DATA\r\n", message):
                begun = time.monotonic()
                connection.sendall(line)
                replies(lines, 1)
            with latencies.get_lock():
                latencies[int((time.monotonic() - begun) * 1e6).bit_length()] += 1


def take(connection, behind):
    """The next hop's side of a connection."""
    with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as lines:
        connection.sendall(b"220 hop\r\n")
        while line := lines.readline():
            if line.startswith(b"DATA"):
                connection.sendall(b"354 go\r\n")
                while lines.readline() != b".\r\n":
                    pass
                if behind.is_set():
                    time.sleep(BEHIND)
            connection.sendall(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 ok\r\n")


def hop(listener, behind):
    while True:
        threading.Thread(target=take, args=(listener.accept()[0], behind), daemon=True).start()


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


def quantile(counts, share):
    """Milliseconds that so large a share of the latencies isn't above, to a power of two."""
    left = share * sum(counts)
    for bits, count in enumerate(counts):
        left -= count
        if left <= 0:
            return (1 << bits) / 1000
    return 0.0


def watch(args, server, spool, sent, behind):
    worst, said, last, begun, before_all = (0.0, ""), 0.0, None, time.monotonic(), sent.value
    while (now := time.monotonic() - begun) < args.seconds:
        if now >= args.behind:
            behind.clear()
        # What lives is counted on both sides of the look at the disk: it moves.
        before, disk, after = living(server), used(spool), living(server)
        (messages, live), total = max(before, after), sum(disk.values())
        bound = 2 * live + 2 * args.segment * 1024 * 1024
        parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(disk.items()))
        this = (now, sent.value, server.written())
        seconds, mail, written = (now - before for now, before in zip(this, last or (this[0] - 1, *this[1:])))
        line = (f"{now:.0f} s: {mail / seconds:.0f} messages/s, {mail * args.size / seconds / 1e6:.1f} MB/s, {written / seconds / 1e6:.1f} MB/s "
                f"written; {messages} wait with {live / 1e6:.1f} MB; {total / 1e6:.1f} MB on disk ({parts}), "
                f"{100 * total / bound:.0f} % of {bound / 1e6:.1f} MB")
        worst = max(worst, (total / bound, line))
        if now >= said:
            print(line, flush=True)
            said, last = said + args.every, this
        time.sleep(1)
    return worst, (sent.value - before_all) / args.seconds


def send(args, server, latencies, until=None):
    """Clients, what they have sent, and what stops them."""
    sent, stop = multiprocessing.Value("q", 0), multiprocessing.Event()
    words = (server.port, args.size, sent, latencies, stop, until)
    clients = [multiprocessing.Process(target=load, args=words, daemon=True) for _ in range(args.sessions)]
    for client in clients:
        client.start()
    return clients, sent, stop


def measure(args, program, listener, behind):
    latencies = multiprocessing.Array("q", BUCKETS)
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        routes = route("stay.test", f"127.0.0.1:{free_port()}") + route("far.test", f"127.0.0.1:{listener.getsockname()[1]}")
        os.environ["POSTHOUSE_SPOOL__SEGMENT_SIZE"] = f"{args.segment}MiB"
        server = Server(program, folder, LIMITS, routes)
        for client in send(args, server, latencies, int(args.stays * 1e6 / args.size))[0]:
            client.join()
        latencies[:] = [0] * BUCKETS
        if args.behind:
            behind.set()
        clients, sent, stop = send(args, server, latencies)
        (share, line), rate = watch(args, server, pathlib.Path(folder) / "spool", sent, behind)
        stop.set()
        for client in clients:
            client.join(10)
        counts = latencies[:]
        print(f"{program}: {rate:.0f} messages/s, the final dot's reply within {quantile(counts, 0.5):.1f} ms (half), "
              f"{quantile(counts, 0.99):.1f} ms (99 %), {quantile(counts, 0.999):.1f} ms (99.9 %); the most was\n{line}", flush=True)
        server.stop()
    return share


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+", type=os.path.abspath)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--every", type=float, default=30)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--segment", type=int, default=64, help="MiB")
    parser.add_argument("--size", type=int, default=4096, help="octets of a message")
    parser.add_argument("--stays", type=float, default=0, help="MB")
    parser.add_argument("--behind", type=float, default=0, help="seconds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dir")
    args = parser.parse_args()
    listener, behind = socket.create_server(("127.0.0.1", 0), backlog=500), multiprocessing.Event()
    next_hop = multiprocessing.Process(target=hop, args=(listener, behind), daemon=True)
    next_hop.start()
    shares = [measure(args, program, listener, behind) for _ in range(args.rounds) for program in args.programs]
    next_hop.terminate()
    raise SystemExit(max(shares) > 1)


if __name__ == "__main__":
    main()
