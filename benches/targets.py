#!/usr/bin/env python3
"""The spool's targets beside what is measured: Posthouse and its peers in the same run of a load harness, and a table of what is reached.

    benches/targets.py target/release/posthouse --harness DIR --out target/targets          measures, then prints the table
    benches/targets.py target/release/posthouse --harness DIR --out target/targets --print  prints it again

DIR/run is the harness: `DIR/run WORKLOADS --peers P,… --rounds N --out O` has the peers take turns and writes O.json ("summary": rows with
workload, tracer, size, sessions, per_conn, peer, rate, cpu_us, syncs, write_kb, …) and O.md (its tables, the limits among them).
"""

import argparse
import json
import os
import pathlib
import re
import subprocess

OURS = "posthouse"
SIZE = 4096
LOAD_TOOL = re.compile(r"^\| load tool to its own sink, 4 KiB, 20 sessions, many per connection \| (\d+) \|", re.M)


def runs(args):
    """The harness's runs by name; a million messages are more than the peers take in its time."""
    peers = f"postfix,opensmtpd,{OURS}"
    usual = ["--rounds", str(args.rounds), "--scale", str(args.scale)]
    return {
        "accept": ["accept", "limits", "--grid", "full", "--peers", peers, *usual],
        "slow": ["syncs", "slow-preload", "slow-inject", "--peers", peers, *usual],
        "backlog": ["backlog", "--peers", OURS, "--backlog", str(args.backlog), "--rounds", "1", "--disk-gb", str(args.disk_gb)],
    }


def measure(args):
    environment = dict(os.environ, POSTHOUSE=args.program)
    for name, words in runs(args).items():
        subprocess.run([args.harness / "run", *words, "--out", args.out / name], env=environment, check=True, stdout=subprocess.DEVNULL)


class Results:
    """What the runs wrote."""

    def __init__(self, folder):
        self.rows, self.load_tool = [], None
        for path in sorted(folder.glob("*.json")):
            self.rows += json.loads(path.read_text())["summary"]
        for path in sorted(folder.glob("*.md")):
            if found := LOAD_TOOL.search(path.read_text()):
                self.load_tool = float(found[1])

    def of(self, figure, sessions, peer=OURS, workload="accept", tracer=None):
        """A figure of a cell with 4 KiB and many messages a connection; none: it wasn't measured."""
        cell = {"workload": workload, "tracer": tracer, "size": SIZE, "sessions": sessions, "per_conn": 0, "peer": peer}
        for row in self.rows:
            if all(row[key] == value for key, value in cell.items()):
                return row.get(figure)
        return None

    def times(self, peer, sessions, tracer=None):
        return over(self.of("rate", sessions, tracer=tracer), self.of("rate", sessions, peer, tracer=tracer))

    def backlog(self, figure):
        return self.of(figure, 20, workload="backlog")


def over(one, other):
    return one / other if one is not None and other else None


def at_least(what, bound, unit, value):
    return what, f"at least {bound}{unit}", value, unit, lambda value: value >= bound


def under(what, bound, unit, value):
    return what, f"under {bound}{unit}", value, unit, lambda value: value < bound


def targets(results, queued):
    of, times, backlog = results.of, results.times, results.backlog
    share, kept = over(of("rate", 20), results.load_tool), over(backlog("backlog_rate"), backlog("empty_rate"))
    written = over(of("write_kb", 20), SIZE / 1000)
    percent = [None if value is None else 100 * value for value in (share, kept)]
    yield at_least("accept at 1 session, Postfix's rate", 1, " x", times("postfix", 1))
    yield at_least("accept at 20 sessions, Postfix's rate", 8, " x", times("postfix", 20))
    yield at_least("accept at 20 sessions, OpenSMTPD's rate", 3, " x", times("opensmtpd", 20))
    yield at_least("accept at 100 sessions, Postfix's rate", 10, " x", times("postfix", 100))
    for sessions in (1, 20, 100):
        yield under(f"CPU a message at {sessions} sessions", 50, " us", of("cpu_us", sessions))
    yield at_least("accept at 20 sessions, of the load tool's own rate", 40, " %", percent[0])
    for tracer in ("preload", "inject"):
        yield at_least(f"2 ms added to each sync ({tracer}), 100 sessions, Postfix's rate", 10, " x", times("postfix", 100, tracer))
    yield under("syncs a message at 20 sessions", 0.2, "", of("syncs", 20, tracer="count"))
    # The harness counts at 20 sessions only; where it slows syncs down it counts them, too.
    yield under("syncs a message at 100 sessions, each 2 ms slower", 0.05, "", of("syncs", 100, tracer="inject"))
    yield under("bytes written a byte of mail at 20 sessions", 1.2, "", written)
    yield under("memory with nothing queued", 40, " MB", backlog("empty_rss_mb"))
    yield under(f"memory with {queued} deferred", 250, " MB", backlog("backlog_rss_mb"))
    yield at_least(f"accept with {queued} deferred, of that with none", 90, " %", percent[1])
    yield under(f"from a kill with {queued} deferred to the greeting", 2, " s", backlog("restart_accepts"))


def show(results):
    queued = results.backlog("queued")
    print("| what | target | measured | reached |\n|---|---|---|---|")
    for what, target, value, unit, holds in targets(results, "so many" if queued is None else f"{queued:,.0f}"):
        measured, reached = ("-", "not measured") if value is None else (f"{value:.3g}{unit}", "yes" if holds(value) else "**no**")
        print(f"| {what} | {target} | {measured} | {reached} |")
    print("\n| accept, 4 KiB, many a connection | messages/s | CPU us a message |\n|---|---|---|")
    for sessions in (1, 20, 100):
        for peer in (OURS, "postfix", "opensmtpd"):
            rate, cpu = results.of("rate", sessions, peer), results.of("cpu_us", sessions, peer)
            if rate is not None:
                print(f"| {sessions} sessions, {peer} | {rate:.0f} | {cpu:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=os.path.abspath)
    parser.add_argument("--harness", type=lambda path: pathlib.Path(path).resolve(), required=True, help="its folder")
    parser.add_argument("--out", type=lambda path: pathlib.Path(path).resolve(), required=True, help="the folder for its results")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=5, help="times the harness's usual number of messages")
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--disk-gb", type=int, default=10, help="of memory, for the disk that the backlog lies on")
    parser.add_argument("--print", action="store_true", dest="only_print", help="measure nothing, print what was measured")
    args = parser.parse_args()
    if not args.only_print:
        args.out.mkdir(parents=True, exist_ok=True)
        measure(args)
    show(Results(args.out))


if __name__ == "__main__":
    main()
