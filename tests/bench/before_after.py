#!/usr/bin/env python3
"""Two built programs under the same closed loop, in turns: what a change did to speed, in one run on one machine.

    tests/bench/before_after.py OLD NEW [--rounds 4] [--seconds 8] [--clients 8] [--words 62]

Each round starts both servers after each other with the shipped adapters and loads each by NEW's `trunkline bench` (8 clients, texts of 64
tokens). Prints the median of each and the ratio NEW / OLD; ends with 1 if any answer was not a 200.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "acceptance"))
from server import ROOT, serving  # noqa: E402


def load(binary, bench, arguments):
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        folder = pathlib.Path(folder)
        shutil.copytree(ROOT / "adapters", folder / "adapters")
        with serving(binary, adapters=folder / "adapters") as server:
            report = folder / "report.json"
            flags = {"--url": f"http://127.0.0.1:{server.port}", "--words": arguments.words, "--clients": arguments.clients, "--seconds": arguments.seconds, "--json": report}
            subprocess.run([bench, "bench", *(str(word) for pair in flags.items() for word in pair)], check=True, stdout=subprocess.DEVNULL)
            return json.loads(report.read_text())["stages"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--words", type=int, default=62)
    arguments = parser.parse_args()
    stages = {"old": [], "new": []}
    for _ in range(arguments.rounds):
        for name in stages:
            stages[name].append(load(getattr(arguments, name), arguments.new, arguments))
    failed = sum(stage["offered"] - stage["accepted"] for stage in stages["new"])
    figures = {"requests/s": lambda stage: stage["answers_per_second"], "p50 ms": lambda stage: stage["latency_ms"]["p50"], "p99 ms": lambda stage: stage["latency_ms"]["p99"]}
    for figure, of in figures.items():
        old, new = (statistics.median(of(stage) for stage in stages[name]) for name in ("old", "new"))
        print(f"{figure:10} old {old:8.1f}  new {new:8.1f}  ratio {new / old:.3f}")
    print(f"answers of the new one that were no 200: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
