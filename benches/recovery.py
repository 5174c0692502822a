#!/usr/bin/env python3
"""A long queue, a kill, and the way back: how long until mail is taken again, what the queue's commands need, and memory.

    BACKLOG_DIR=/mnt/disk/spool cargo bench --bench backlog                          makes a spool with a million deferred messages
    benches/recovery.py target/release/posthouse --spool /mnt/disk/spool

Starts the server on that spool, which gets more messages by it, sends from some sessions, kills it (kill -9) in the middle, starts it
again, and takes the time from that start to the first 250; --rounds times. Then `queue list --domain D --limit 10` and `queue stats` by
the command line, the start of the program included. Client and server share the machine.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import subprocess
import tempfile
import time

from server import Client, Server

PAUSED = "[queue]\npaused = true\n"
LIMITS = "commands = 1000000000"
CONTENT = b"Subject: bench\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 56 + b".\r\n"


class Sender(Client):
    """Sends small messages, one after the other."""

    def send(self):
        self.envelope(b"b@fresh.test")
        self.socket.sendall(CONTENT)
        self.expect(b"250")


def load(port, taken):
    """Sends until the server is gone."""
    try:
        client = Sender(port)
        while True:
            client.send()
            with taken.get_lock():
                taken.value += 1
    except OSError:
        pass


def kill_under_load(server, sessions, messages):
    """Says how many messages were answered with 250 before the kill."""
    taken = multiprocessing.Value("q", 0)
    clients = [multiprocessing.Process(target=load, args=(server.port, taken)) for _ in range(sessions)]
    for client in clients:
        client.start()
    while taken.value < messages and any(client.is_alive() for client in clients):
        time.sleep(0.01)
    server.stop()
    for client in clients:
        client.join()
    return taken.value


def asked(server, *words):
    """What a command prints as JSON, and the seconds that it took."""
    while True:
        begun = time.monotonic()
        done = subprocess.run([server.program, "--config", server.config, *words, "--json"], capture_output=True)
        took = time.monotonic() - begun
        if done.returncode == 0:
            return [json.loads(line) for line in done.stdout.splitlines()], took
        # 69: the server has the spool, but doesn't answer yet.
        assert done.returncode == 69, done.stderr


def waiting(server):
    """Messages in the queue, by its statistics."""
    rows, _ = asked(server, "queue", "stats")
    return next(row["messages"] for row in rows if row["by"] == "total")


def resident(server):
    """Resident memory, all of it and what was allocated; MB."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    field = lambda name: int(status.split(name)[1].split()[0]) / 1024
    return f"{field('VmRSS:'):.0f} MB resident, {field('RssAnon:'):.0f} MB of it allocated"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath)
    parser.add_argument("--spool", type=os.path.abspath, required=True)
    parser.add_argument("--domain", default="d7.test", help="one of those in the spool")
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--messages", type=int, default=5000, help="taken before each kill")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(args.spool, pathlib.Path(folder) / "spool")
        server = Server(args.program, folder, LIMITS, PAUSED)
        queued = waiting(server)
        print(f"{queued} messages in the queue; after a start {resident(server)}")
        for _ in range(args.rounds):
            taken = kill_under_load(server, args.sessions, args.messages)
            begun = time.monotonic()
            server = Server(args.program, folder, LIMITS, PAUSED)
            Sender(server.port).send()
            first = time.monotonic() - begun
            now = waiting(server)
            # What was taken and not yet answered may be there, too.
            assert queued + taken < now <= queued + taken + args.sessions + 1, (queued, taken, now)
            queued = now
            print(f"killed after {taken} more: {first:.2f} s from the start to the first 250; {queued} messages, none lost")
        for words in (["queue", "list", "--domain", args.domain, "--limit", "10"], ["queue", "stats"]):
            times = sorted(asked(server, *words)[1] for _ in range(11))
            print(f"{' '.join(words)}: {1000 * times[5]:.0f} ms median, {1000 * times[-1]:.0f} ms at the most of 11")
        print(resident(server))
        server.stop()


if __name__ == "__main__":
    main()
