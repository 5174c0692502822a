#!/usr/bin/env python3
"""The queue under load: do dead destinations cost the living anything, and does what waits cost the rest? (Is it fair: fairness.rs.)

    benches/queue.py PROGRAM holes    --destinations 1000 --holes 300 --each 20      time for the living, without holes and beside them
    benches/queue.py PROGRAM deferred --deferred 100000 --relayed 20000      relay rate and idle CPU, empty and with so much deferred

PROGRAM is the server's release build. --dir names a folder on the disk that is meant (default: a temporary one). Client, next hop and
server share the machine: believe the ratios.
"""

import argparse
import asyncio
import multiprocessing
import os
import socket
import tempfile
import time

from server import Server, free_port, route

LIMITS = 'commands = 1000000000\ngreeting_delay = "0s"'
CONTENT = b"Subject: bench\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 56 + b".\r\n"


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if what():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit("it never came to that")


class Session(asyncio.Protocol):
    """The next hop's side of a connection: says yes to everything, and counts."""

    def __init__(self, count):
        self.count, self.buffer, self.content = count, b"", False

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"220 sink\r\n")

    def data_received(self, data):
        self.buffer += data
        answers = []
        while True:
            if self.content:
                end = self.buffer.find(b"\r\n.\r\n")
                if end < 0:
                    break
                self.buffer, self.content = self.buffer[end + 5:], False
                answers.append(b"250 2.0.0 taken\r\n")
                with self.count.get_lock():
                    self.count.value += 1
                continue
            line, newline, rest = self.buffer.partition(b"\r\n")
            if not newline:
                break
            self.buffer = rest
            answers.append(self.answer(line))
        if answers:
            self.transport.write(b"".join(answers))

    def answer(self, line):
        if line.startswith(b"EHLO"):
            return b"250-sink\r\n250-8BITMIME\r\n250 PIPELINING\r\n"
        if line.startswith(b"DATA"):
            self.content = True
            return b"354 go\r\n"
        return b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 2.0.0 ok\r\n"


def sink(port, count):
    async def main():
        server = await asyncio.get_running_loop().create_server(lambda: Session(count), "0.0.0.0", port, backlog=4096)
        await server.serve_forever()

    asyncio.run(main())


class Client:
    """One session with the server."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.reply()
        self.socket.sendall(b"EHLO client.bench.test\r\n")
        self.reply()

    def reply(self):
        while True:
            line = self.file.readline()
            if line[3:4] != b"-":
                return line

    def send(self, sender, to):
        self.socket.sendall(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode())
        replies = [self.reply() for _ in range(3)]
        assert replies[2].startswith(b"354"), replies
        self.socket.sendall(CONTENT)
        last = self.reply()
        assert last.startswith(b"250"), last


def load(port, recipients):
    """Sends a message to each, over some sessions in processes of their own."""
    def some(part):
        client = Client(port)
        for to in part:
            client.send("news@bulk.test", to)

    parts = [recipients[n::8] for n in range(8)]
    processes = [multiprocessing.Process(target=some, args=(part,), daemon=True) for part in parts if part]
    for process in processes:
        process.start()
    return processes


def join(processes):
    for process in processes:
        process.join()


def holes(args, root, port, count):
    hole = socket.socket()
    hole.bind(("0.0.0.0", 0))
    # Connections are made by the system, and nobody ever greets.
    hole.listen(4096)

    def host(n):
        return f"127.{2 + n // 250}.0.{1 + n % 250}"

    def run(dead):
        ports = [hole.getsockname()[1] if n < dead else port for n in range(args.destinations)]
        routes = [route(f"d{n}.test", f"{host(n)}:{ports[n]}") for n in range(args.destinations)]
        folder = tempfile.mkdtemp(dir=root)
        server = Server(args.program, folder, LIMITS, "".join(routes))
        before, living = count.value, range(args.holes, args.destinations)
        dying = load(server.port, [f"u{k}@d{n}.test" for k in range(3) for n in range(dead)])
        join(dying)
        began = time.monotonic()
        join(load(server.port, [f"u{k}@d{n}.test" for k in range(args.each) for n in living]))
        wait_for(lambda: count.value - before == args.each * len(living), 600)
        server.stop()
        return time.monotonic() - began

    # In turns, and the best of each: the machine has other things to do.
    alone, beside = (min(times) for times in zip(*[(run(0), run(args.holes)) for _ in range(args.rounds)]))
    rate = args.each * (args.destinations - args.holes)
    print(f"alone: {rate / alone:.0f}/s; beside {args.holes} holes: {rate / beside:.0f}/s, {100 * alone / beside:.0f} %")


def deferred(args, root, port, count):
    dead = free_port()
    routes = [route(f"dead{n}.test", f"127.0.2.{n + 1}:{dead}") for n in range(10)]
    server = Server(args.program, root, LIMITS, "".join(routes) + route("*", f"127.0.0.1:{port}"))

    def relay():
        before, began = count.value, time.monotonic()
        join(load(server.port, [f"u{n}@d.test" for n in range(args.relayed)]))
        wait_for(lambda: count.value - before == args.relayed, 600)
        return args.relayed / (time.monotonic() - began)

    def idle():
        began, cpu = time.monotonic(), server.cpu()
        time.sleep(20)
        return 100 * (server.cpu() - cpu) / (time.monotonic() - began)

    relay()
    empty = max(relay() for _ in range(args.rounds))
    join(load(server.port, [f"u{n}@dead{n % 10}.test" for n in range(args.deferred)]))
    time.sleep(10)
    share, full = idle(), max(relay() for _ in range(args.rounds))
    print(f"empty: {empty:.0f}/s; with {args.deferred} deferred: {full:.0f}/s, {100 * full / empty:.0f} %; idle {share:.2f} % of a core")
    server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath)
    parser.add_argument("figure", choices=["holes", "deferred"])
    parser.add_argument("--dir")
    numbers = {"destinations": 1000, "holes": 300, "each": 20, "deferred": 100000, "relayed": 20000, "rounds": 3}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    multiprocessing.set_start_method("fork")
    port, count = free_port(), multiprocessing.Value("q", 0)
    hop = multiprocessing.Process(target=sink, args=(port, count), daemon=True)
    hop.start()
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        {"holes": holes, "deferred": deferred}[args.figure](args, root, port, count)
    hop.terminate()


if __name__ == "__main__":
    main()
