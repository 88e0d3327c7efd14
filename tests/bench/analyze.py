#!/usr/bin/env python3
"""What one text through many adapters costs, list against list on one server, in turns: the median of each and their ratio.

    cargo build --release
    tests/bench/analyze.py [--lists A,B,… A,B,…] [--requests 400]

Without lists: the six adapters of the repository, `everyday-entities` in its version of the last two layers (1) and in that of all layers
(2). An adapter of the last layers shares those below with the others, one of all layers shares none.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "acceptance"))

from server import default_binary, serving  # noqa: E402

OTHERS = "assistant-slots,bank-intents,assistant-intents,emotion,sms-spam"
TEXT = "Meet Anna Kowalska from Siemens in Kraków on Friday and bring the papers that we talked about, thanks a lot for the help"
WARM_UP = 20


def seconds(server, adapters):
    began = time.perf_counter()
    server.call("POST", "/v1/analyze", {"inputs": [TEXT], "adapters": adapters.split(",")})
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", nargs=2, default=[f"everyday-entities@{version},{OTHERS}" for version in (1, 2)])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--binary", type=pathlib.Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trunkline-analyze-") as state:
        with serving(arguments.binary or default_binary(), adapters=ROOT / "adapters", state=pathlib.Path(state)) as server:
            for adapters in arguments.lists * WARM_UP:
                seconds(server, adapters)
            taken = {adapters: [] for adapters in arguments.lists}
            for _ in range(arguments.requests):
                for adapters in arguments.lists:
                    taken[adapters].append(seconds(server, adapters))
    first, second = (statistics.median(taken[adapters]) for adapters in arguments.lists)
    for adapters in arguments.lists:
        print(f"{1000 * statistics.median(taken[adapters]):.2f} ms  {adapters}")
    print(json.dumps({"ratio": round(second / first, 3)}))


if __name__ == "__main__":
    main()
