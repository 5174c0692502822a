#!/usr/bin/env python3
"""The queue under load: is it fair, do dead destinations cost the living anything, and does what waits cost the rest?

    benches/queue.py PROGRAM fairness --bulk 100000 --letters 500    250-in to 250-out of single letters, alone and beside one sender's bulk
    benches/queue.py PROGRAM holes    --destinations 1000 --holes 300 --each 20      time for the living, without holes and beside them
    benches/queue.py PROGRAM deferred --deferred 100000 --relayed 20000      relay rate and idle CPU, empty and with so much deferred

PROGRAM is the server's release build. --dir names a folder on the disk that is meant (default: a temporary one). Client, next hop and
server share the machine: believe the ratios.
"""

import argparse
import asyncio
import multiprocessing
import os
import pathlib
import socket
import subprocess
import tempfile
import time

CONFIG = """
hostname = "mx.bench.test"
postmaster = "p@bench.test"
[spool]
path = "{root}/spool"
[[listener]]
address = "127.0.0.1:{port}"
[auth]
users = "{root}/users"
[limits]
connections_per_client = 1000
commands = 1000000000
greeting_delay = "0s"
[relay]
networks = ["127.0.0.0/8"]
{routes}
[admin]
socket = "{root}/control.sock"
http = ""
[log]
level = "error"
"""
ROUTE = '[[route]]\ndomain = "{domain}"\nhosts = ["{host}"]\ntls = "none"\n'
CONTENT = b"Subject: bench\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 56 + b".\r\n"
# Of another network than the bulk's.
LETTERS_FROM = "127.0.1.1"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """The program with a configuration of its own."""

    def __init__(self, program, root, routes):
        self.program, self.config, self.port = program, f"{root}/posthouse.toml", free_port()
        pathlib.Path(f"{root}/users").touch()
        pathlib.Path(self.config).write_text(CONFIG.format(root=root, port=self.port, routes="".join(routes)))
        self.process = subprocess.Popen([program, "serve", "--config", self.config])
        wait_for(lambda: socket.create_connection(("127.0.0.1", self.port)).close() or True)

    def queue(self, verb):
        subprocess.run([self.program, "queue", verb, "--config", self.config], check=True, stdout=subprocess.DEVNULL)

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.kill()
        self.process.wait()


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

    def __init__(self, count, out):
        self.count, self.out, self.buffer, self.content, self.letter = count, out, b"", False, None

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
                if self.letter is not None:
                    self.out[self.letter] = time.monotonic()
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
        if line.startswith(b"MAIL"):
            self.letter = None
        if line.startswith(b"RCPT TO:<letter"):
            self.letter = int(line[15:line.index(b"@")])
        return b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 2.0.0 ok\r\n"


def sink(port, count, out):
    async def main():
        server = await asyncio.get_running_loop().create_server(lambda: Session(count, out), "0.0.0.0", port, backlog=4096)
        await server.serve_forever()

    asyncio.run(main())


class Client:
    """One session with the server."""

    def __init__(self, port, source="127.0.0.1"):
        self.socket = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
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
        """Returns when the 250 came."""
        self.socket.sendall(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode())
        replies = [self.reply() for _ in range(3)]
        assert replies[2].startswith(b"354"), replies
        self.socket.sendall(CONTENT)
        last = self.reply()
        now = time.monotonic()
        assert last.startswith(b"250"), last
        return now


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


def quantile(times, share):
    return 1000 * sorted(times)[min(len(times) - 1, int(len(times) * share))]


def fairness(args, root, port, count, out):
    server = Server(args.program, root, [ROUTE.format(domain="*", host=f"127.0.0.1:{port}")])

    def letters(first, going_on=lambda: True):
        client, sent = Client(server.port, LETTERS_FROM), {}
        for n in range(first, first + args.letters):
            if not going_on():
                break
            sent[n] = client.send("ann@letters.test", f"letter{n}@d.test")
            time.sleep(0.01)
        wait_for(lambda: all(out[n] for n in sent))
        times = [max(0.0, out[n] - at) for n, at in sent.items()]
        return len(times), quantile(times, 0.5), quantile(times, 0.99)

    letters(0)
    print("idle:        {} letters, p50 {:.2f} ms, p99 {:.2f} ms".format(*letters(args.letters)))
    server.queue("pause")
    join(load(server.port, [f"n{n}@d.test" for n in range(args.bulk)]))
    before, began = count.value, time.monotonic()
    server.queue("resume")
    beside = letters(2 * args.letters, lambda: count.value - before < args.bulk * 0.9)
    print("beside bulk: {} letters, p50 {:.2f} ms, p99 {:.2f} ms".format(*beside), f"({count.value - before} of {args.bulk} gone meanwhile)")
    letters_out = beside[0]
    wait_for(lambda: count.value - before >= args.bulk + letters_out, 3600)
    print(f"all gone at {(args.bulk + letters_out) / (time.monotonic() - began):.0f}/s")
    server.stop()


def holes(args, root, port, count, out):
    hole = socket.socket()
    hole.bind(("0.0.0.0", 0))
    # Connections are made by the system, and nobody ever greets.
    hole.listen(4096)

    def host(n):
        return f"127.{2 + n // 250}.0.{1 + n % 250}"

    def run(dead):
        ports = [hole.getsockname()[1] if n < dead else port for n in range(args.destinations)]
        routes = [ROUTE.format(domain=f"d{n}.test", host=f"{host(n)}:{ports[n]}") for n in range(args.destinations)]
        folder = tempfile.mkdtemp(dir=root)
        server = Server(args.program, folder, routes)
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


def deferred(args, root, port, count, out):
    dead = free_port()
    routes = [ROUTE.format(domain=f"dead{n}.test", host=f"127.0.2.{n + 1}:{dead}") for n in range(10)]
    server = Server(args.program, root, routes + [ROUTE.format(domain="*", host=f"127.0.0.1:{port}")])

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
    parser.add_argument("figure", choices=["fairness", "holes", "deferred"])
    parser.add_argument("--dir")
    numbers = {"bulk": 100000, "letters": 500, "destinations": 1000, "holes": 300, "each": 20, "deferred": 100000, "relayed": 20000, "rounds": 3}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    multiprocessing.set_start_method("fork")
    port, count = free_port(), multiprocessing.Value("q", 0)
    out = multiprocessing.Array("d", 4 * args.letters, lock=False)
    hop = multiprocessing.Process(target=sink, args=(port, count, out), daemon=True)
    hop.start()
    with tempfile.TemporaryDirectory(dir=args.dir) as root:
        {"fairness": fairness, "holes": holes, "deferred": deferred}[args.figure](args, root, port, count, out)
    hop.terminate()


if __name__ == "__main__":
    main()
