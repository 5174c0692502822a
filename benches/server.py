"""A server of its own for a measurement: a fresh folder, what its configuration needs, and its process; and a client that talks to it."""

import contextlib
import os
import pathlib
import socket
import subprocess
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
{limits}
[relay]
networks = ["127.0.0.0/8"]
[admin]
socket = "{root}/control.sock"
http = ""
[log]
level = "error"
{tables}
"""


def route(domain, host):
    """Mail for a domain goes to this host, in the clear."""
    return f'[[route]]\ndomain = "{domain}"\nhosts = ["{host}"]\ntls = "none"\n'


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Client:
    """One SMTP session."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 600)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.socket.makefile("rb")
        self.expect(b"220")
        self.say(b"HELO client.test", b"250")

    def expect(self, code):
        line = self.replies.readline()
        if not line.startswith(code):
            raise ConnectionError(line)

    def say(self, line, code):
        self.socket.sendall(line + b"\r\n")
        self.expect(code)

    def envelope(self, to):
        """Everything before the content of a message."""
        self.say(b"MAIL FROM:<a@bench.test>", b"250")
        self.say(b"RCPT TO:<" + to + b">", b"250")
        self.say(b"DATA", b"354")


class Server:
    """One start of the program in a folder; `limits` are lines of that table, `tables` whatever else the measurement needs."""

    def __init__(self, program, folder, limits="", tables=""):
        root, self.program, self.port = pathlib.Path(folder), program, free_port()
        self.config = root / "posthouse.toml"
        (root / "users").touch()
        self.config.write_text(CONFIG.format(root=root, port=self.port, limits=limits, tables=tables))
        self.process = subprocess.Popen([program, "serve", "--config", self.config])
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.02)

    def order(self, *words):
        """A command to the running server."""
        subprocess.run([self.program, "--config", self.config, *words], check=True, capture_output=True)

    def memory(self):
        """Anonymous memory in use, in KiB: what the server has allocated, without its program and the files it maps."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0])

    def written(self):
        """Bytes that the disk of its folder was given so far, by whomever: what a process is charged for grows with the pages' size."""
        disk = os.stat(self.config).st_dev
        stat = pathlib.Path(f"/sys/dev/block/{os.major(disk)}:{os.minor(disk)}/stat")
        # The seventh number counts sectors; none in a file system without a disk.
        return int(stat.read_text().split()[6]) * 512 if stat.exists() else 0

    def cpu(self):
        """Processor time so far, in seconds."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.kill()
        self.process.wait()
