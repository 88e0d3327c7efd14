#!/usr/bin/env python3
"""What a server carries, measured with `trunkline bench` on loopback: requests/s and latency, many adapters against one, one text
through eight adapters against eight requests, a prefix cache, memory after many requests.

    cargo build --release
    tests/bench/serving.py [--seconds 8] [--rounds 3] [--requests 1000000]

The adapters are copies of the shipped ones with other ranks (their weights turned, their labels renamed): 64 of them, half NER and
half classification, ranks 4 to 64, drawn by Zipf's law, against one of rank 16; sides in turn, the median of the rounds' ratios.
The load generator runs on the same cores as the server and takes its share of them.
"""

import argparse
import itertools
import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "acceptance"))

from copies import copy  # noqa: E402
from server import Server, default_binary  # noqa: E402

RANKS = [16, 4, 8, 16, 32, 64]
SHIPPED = {"classify": "emotion", "ner": "everyday-entities"}
# Words that are one token each: so many and the two special tokens.
WORDS = {32: 30, 64: 62}


def make(store):
    """32 adapters of each family; their names, by family."""
    names = {family: [f"{family}-{at}" for at in range(32)] for family in SHIPPED}
    for family, shipped in SHIPPED.items():
        for at, (name, rank) in enumerate(zip(names[family], itertools.cycle(RANKS))):
            copy(store, name, shipped, at, rank)
    return names


def load(binary, server, family, adapters, seconds, *flags):
    """A run of `trunkline bench` that has begun; `stage` ends it."""
    report = tempfile.NamedTemporaryFile(suffix=".json")
    command = [binary, "bench", "--url", f"http://127.0.0.1:{server.port}", "--family", family, "--adapters", ",".join(adapters),
               "--seconds", seconds, "--warm-up", 1, "--json", report.name, *flags]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return process, report


def stage(run):
    process, report = run
    _, problem = process.communicate()
    if process.returncode != 0:
        sys.exit(problem)
    found = json.loads(pathlib.Path(report.name).read_text())["stages"][-1]
    if found["failed"]:
        sys.exit(f"{found['failed']} of {found['offered']} requests failed: {found['failures']}")
    return found


def one_adapter(binary, server, names, arguments):
    for tokens, clients in [(32, 1), (32, 8), (64, 8)]:
        flags = ["--words", WORDS[tokens], "--clients", clients]
        found = stage(load(binary, server, "classify", names["classify"][:1], arguments.seconds, *flags))
        latency = found["latency_ms"]
        print(f"texts of {tokens} tokens, {clients} client{'s' * (clients > 1)}: {found['answers_per_second']:.0f} requests/s, "
              f"p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms", flush=True)


def many_adapters(binary, server, names, arguments):
    """Both families at once, on both sides; as many clients."""
    def both(count):
        runs = [load(binary, server, family, some[:count], arguments.seconds, "--clients", 4, "--zipf", 1.0) for family, some in names.items()]
        return sum(stage(run)["answers_per_second"] for run in runs)

    rounds = [(both(1), both(32)) for _ in range(arguments.rounds)]
    shares = [many / one for one, many in rounds]
    print(f"64 adapters (ranks 4-64, both families, Zipf 1.0) against one of rank 16 a family: "
          f"{statistics.median(many for _, many in rounds):.0f} of {statistics.median(one for one, _ in rounds):.0f} requests/s, "
          f"median share {100 * statistics.median(shares):.1f} % of {[round(100 * share, 1) for share in shares]}", flush=True)


def one_text_through_eight(server, names, arguments):
    """`/v1/analyze` with eight adapters against eight requests, on one connection, in turn."""
    text = " ".join(["time", "people", "water", "house", "place", "money"] * 5)
    eight = names["classify"][:4] + names["ner"][:4]
    connection = server.connect()

    def ask(path, body):
        server.call("POST", path, body, connection=connection)

    def analyze():
        ask("/v1/analyze", {"inputs": text, "adapters": eight})

    def single():
        for name in eight:
            ask(f"/v1/{name.split('-')[0]}", {"inputs": text, "adapter": name})

    times = {analyze: [], single: []}
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        for side, seconds in times.items():
            began = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - began)
    ratio = statistics.median(b / a for a, b in zip(times[analyze], times[single]))
    print(f"one text of 32 tokens through 8 adapters: {1e3 * statistics.median(times[analyze]):.2f} ms by /v1/analyze; "
          f"8 single requests take {ratio:.2f} times as long", flush=True)


def one_text_after_the_other(servers, names, texts):
    """A new text through eight adapters, one request each, with and without `--prefix-cache`; in turn."""
    eight, draw = names["classify"][:4] + names["ner"][:4], random.Random(1)
    times = {kind: {"first": [], "all": []} for kind in servers}
    connections = {kind: server.connect() for kind, server in servers.items()}
    for _ in range(texts):
        text = " ".join(draw.choices(["time", "people", "water", "house", "place", "money", "book", "story", "night", "world"], k=30))
        for kind, server in servers.items():
            began = time.perf_counter()
            for at, name in enumerate(eight):
                server.call("POST", f"/v1/{name.split('-')[0]}", {"inputs": text, "adapter": name}, connection=connections[kind])
                if at == 0:
                    times[kind]["first"].append(time.perf_counter() - began)
            times[kind]["all"].append(time.perf_counter() - began)
    for part in ("first", "all"):
        middle = {kind: 1e3 * statistics.median(found[part]) for kind, found in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times["kept"][part], times["plain"][part]))
        print(f"a new text, {part} of 8 requests: {middle['plain']:.2f} ms, with a prefix cache {middle['kept']:.2f} ms ({ratio:.2f} times as long)", flush=True)


def memory_of(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmRSS"))


def growth(binary, server, names, arguments):
    """Texts of one word: what a request costs beside the encoder."""
    def requests(count):
        answered = 0
        while answered < count:
            flags = ["--words", 1, "--clients", 32]
            found = stage(load(binary, server, "classify", names["classify"], min(arguments.seconds, 30), *flags))
            answered += found["answers_per_second"] * min(arguments.seconds, 30)
        return found["answers_per_second"]

    rate = requests(min(10_000, arguments.requests))
    before = memory_of(server)
    print(f"texts of one word, 32 clients: {rate:.0f} requests/s; {before:.0f} MB resident after 10,000 requests", flush=True)
    requests(arguments.requests)
    after = memory_of(server)
    print(f"after {arguments.requests:,} more: {after:.0f} MB, {100 * (after / before - 1):+.1f} %", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=8, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=0, help="for the growth of memory; 0: not measured")
    parser.add_argument("--flag", action="append", default=[], help="of the server, as --flag=--kernel=avx2-f32")
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary = arguments.binary or default_binary()
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        folder = pathlib.Path(folder)
        names = make(folder / "adapters")
        server = Server(binary, folder / "state", folder / "adapters", *arguments.flag).start()
        try:
            one_adapter(binary, server, names, arguments)
            many_adapters(binary, server, names, arguments)
            one_text_through_eight(server, names, arguments)
            keeping = Server(binary, folder / "state-keeping", folder / "adapters", "--prefix-cache", str(64 << 20), *arguments.flag).start()
            try:
                one_text_after_the_other({"plain": server, "kept": keeping}, names, 300)
            finally:
                keeping.stop()
            if arguments.requests:
                growth(binary, server, names, arguments)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
