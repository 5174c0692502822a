#!/usr/bin/env python3
"""Large messages: what a session costs in memory on the way in and out, and whether they hold small ones up.

    benches/streaming.py PROGRAM memory  --sessions 20 --mb 50     anonymous memory a session, socket to disk
    benches/streaming.py PROGRAM relay   --sessions 20 --mb 50     the same, disk to next hop
    benches/streaming.py PROGRAM latency --uploads 4 --mb 50       final dot to 250 of 4 KiB messages, without uploads and beside them

PROGRAM is the server's release build. --dir names a folder on the disk that is meant (default: a temporary one).
"""

import argparse
import contextlib
import multiprocessing
import os
import pathlib
import socket
import tempfile
import threading
import time

from server import Client, Server, free_port, route

LINE = b"0123456789" * 7 + b"12345678\r\n"
PIECE = LINE * 819
LIMITS = 'connections = 1000\nmessage_size = "200MiB"\nin_flight = "100GiB"\nin_flight_per_network = "100GiB"'


def start(program, folder, hop):
    """A server that takes large messages, and doesn't send them on to the hop at this port before it is told to."""
    tables = route("*", f"127.0.0.1:{hop}") + '[remote]\nconcurrency = 200\nspecial_addresses = "allow"\n'
    tables += "[queue]\npaused = true\nattempts = 200\n"
    return Server(program, folder, LIMITS, tables)


class Sender(Client):
    """Sends large messages, one after the other."""

    def send(self, size):
        """One message; the seconds from its final dot to the 250."""
        self.envelope(b"b@far.test")
        self.socket.sendall(b"Subject: large\r\n\r\n")
        for _ in range(size // len(PIECE)):
            self.socket.sendall(PIECE)
        self.socket.sendall(PIECE[: size % len(PIECE) // len(LINE) * len(LINE)])
        begun = time.monotonic()
        self.say(b".", b"250")
        return time.monotonic() - begun


def sample(server, stop, peak):
    while not stop.wait(0.02):
        peak[0] = max(peak[0], server.memory())


@contextlib.contextmanager
def watched(server):
    """A list with one number: the most memory that was seen."""
    peak, stop = [0], threading.Event()
    thread = threading.Thread(target=sample, args=(server, stop, peak))
    thread.start()
    yield peak
    stop.set()
    thread.join()


def side_by_side(jobs):
    threads = [threading.Thread(target=job) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def memory(args, folder):
    server = start(args.program, folder, free_port())
    clients = [Sender(server.port) for _ in range(args.sessions)]
    clients[0].send(4096)
    time.sleep(1)
    before = server.memory()
    begun = time.monotonic()
    with watched(server) as peak:
        side_by_side([lambda c=c: c.send(args.mb << 20) for c in clients])
    print(f"{args.sessions} sessions with {args.mb} MiB each at once, in {time.monotonic() - begun:.1f} s: {before} KiB before, "
          f"{peak[0]} KiB at the most: {(peak[0] - before) / args.sessions:.0f} KiB a session")
    server.stop()


def sink_one(connection, done):
    """Takes one message, as slowly as it comes."""
    with connection, connection.makefile("rb") as lines:
        connection.sendall(b"220 sink\r\n")
        while line := lines.readline():
            if line.upper().startswith(b"DATA"):
                connection.sendall(b"354 go\r\n")
                tail = b""
                while not tail.endswith(b"\r\n.\r\n"):
                    tail = (tail + lines.read1(65536))[-65536:]
                connection.sendall(b"250 taken\r\n")
                done.release()
            else:
                connection.sendall(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")


def sink(port, done):
    listener = socket.create_server(("127.0.0.1", port), backlog=500)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=sink_one, args=(connection, done), daemon=True).start()


def relay(args, folder):
    hop, done = free_port(), threading.Semaphore(0)
    server = start(args.program, folder, hop)
    threading.Thread(target=sink, args=(hop, done), daemon=True).start()
    client = Sender(server.port)
    for _ in range(args.sessions):
        client.send(args.mb << 20)
    time.sleep(1)
    before = server.memory()
    begun = time.monotonic()
    with watched(server) as peak:
        server.order("queue", "resume")
        for _ in range(args.sessions):
            assert done.acquire(timeout=600), "not delivered"
    print(f"{args.sessions} messages of {args.mb} MiB relayed at once, in {time.monotonic() - begun:.1f} s: {before} KiB before, "
          f"{peak[0]} KiB at the most: {(peak[0] - before) / args.sessions:.0f} KiB a message")
    server.stop()


def small_ones(server, seconds, times):
    client, end = Sender(server.port), time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(client.send(4096))


def upload_until(port, size, stop, count):
    client = Sender(port)
    while not stop.is_set():
        client.send(size)
        with count.get_lock():
            count.value += 1


def latency(args, folder):
    server = start(args.program, folder, free_port())
    for uploads in (0, args.uploads):
        # In processes of their own: threads of this one would hold up each other.
        stop, count, times = multiprocessing.Event(), multiprocessing.Value("i"), []
        loads = [multiprocessing.Process(target=upload_until, args=(server.port, args.mb << 20, stop, count)) for _ in range(uploads)]
        for t in loads:
            t.start()
        side_by_side([lambda: small_ones(server, args.seconds, times) for _ in range(args.small)])
        stop.set()
        for t in loads:
            t.join()
        times.sort()
        at = [times[int(len(times) * share)] * 1000 for share in (0.5, 0.99, 0.999)]
        print(f"{uploads} uploads of {args.mb} MiB beside ({count.value} done): {len(times)} small messages, final dot to 250 "
              f"{at[0]:.2f} ms median, {at[1]:.2f} ms 99 %, {at[2]:.2f} ms 99.9 %, {times[-1] * 1000:.1f} ms at the most")
    server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("what", choices=["memory", "relay", "latency"])
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--mb", type=int, default=50)
    parser.add_argument("--uploads", type=int, default=4)
    parser.add_argument("--small", type=int, default=4, help="sessions with small messages")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--dir", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        os.chmod(folder, 0o755)
        {"memory": memory, "relay": relay, "latency": latency}[args.what](args, folder)


if __name__ == "__main__":
    main()
