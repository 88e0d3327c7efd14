#!/usr/bin/env python3
"""`kill -9` in the middle of a pre-finetuning job: it must go on from its checkpoint and leave the backbone and primaries of an undisturbed run.

    tests/acceptance/kill_pre_finetune.py [--kills 3] [--steps 120] [--seed 1]
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile
import time

from kill_and_resume import at_step, is_over, resumed_from, rows, wait
from server import Server, default_binary

NAMES = {"PER": ["Anna", "Bob", "Carol", "Dimitri"], "LOC": ["Rome", "Kraków", "Oslo"], "drink": ["tea", "coffee", "juice"]}


def tagged(count, seed):
    """A small made-up task: names among other words."""
    draw = random.Random(seed)
    for _ in range(count):
        words = [(draw.choice("please can you find me the a some".split()), "O") for _ in range(4)]
        for label in draw.sample(sorted(NAMES), 2):
            words.insert(draw.randrange(len(words)), (draw.choice(NAMES[label]), f"B-{label}"))
        yield {"tokens": [word for word, _ in words], "tags": [tag for _, tag in words]}


def spec(server, name, steps):
    for dataset, family, made in (("topics", "classify", rows(400, 1)), ("names", "ner", tagged(400, 2))):
        body = "".join(json.dumps(row) + "\n" for row in made).encode()
        server.call("PUT", f"/v1/admin/datasets/{dataset}?family={family}&split=train", body)
    return {
        "kind": "pre_finetune", "strategy": "task_primary", "publish": "stage",
        "ner": {"datasets": [{"name": "names"}]}, "classify": {"datasets": [{"name": "topics"}]},
        "hyperparameters": {"steps": steps, "batch_size": 16, "measure_every": 10},
        "outputs": {"backbone": name, "ner_primary": "ner-primary", "classify_primary": "classify-primary"},
    }


def left(server, job):
    """What the job left: the backbone's fingerprint and the primaries' digests."""
    report = server.call("GET", f"/v1/admin/jobs/{job['id']}/report")
    return {
        "backbone": report["backbone"]["fingerprint"],
        "ner": report["published"]["ner_primary"]["digest"],
        "classify": report["published"]["classify_primary"]["digest"],
        "series": report["pre_finetune"]["series"],
    }


def checkpoint(server, job):
    """A pause leaves one; the job goes on at once."""
    server.call("POST", f"/v1/admin/jobs/{job['id']}/pause", {})
    while server.call("GET", f"/v1/admin/jobs/{job['id']}")["status"] not in ("paused", "succeeded"):
        time.sleep(0.05)
    server.call("POST", f"/v1/admin/jobs/{job['id']}/resume", {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary, draw = arguments.binary or default_binary(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        folder = pathlib.Path(folder)
        server = Server(binary, folder / "calm", folder / "calm-adapters").start()
        job = wait(server, server.call("POST", "/v1/admin/jobs", spec(server, "made", arguments.steps)))
        assert job["status"] == "succeeded", job
        wanted = left(server, job)
        server.stop()

        server = Server(binary, folder / "storm", folder / "storm-adapters").start()
        job = server.call("POST", "/v1/admin/jobs", spec(server, "made", arguments.steps))
        for share in sorted(draw.uniform(0.1, 0.9) for _ in range(arguments.kills)):
            state = at_step(server, job, share)
            if is_over(state):
                break
            checkpoint(server, job)
            state = at_step(server, job, min(share + 0.05, 0.95))
            server.kill()
            print(f"killed at step {state['progress']['step']} of {state['progress']['steps']} ({state['status']})")
            server.start()
        job = wait(server, job)
        assert job["status"] == "succeeded", job
        resumed, got = resumed_from(server, job), left(server, job)
        versions = {name: len(server.call("GET", f"/v1/adapters/{name}")["versions"]) for name in ("ner-primary", "classify-primary")}
        server.stop()
    equal = {key: got[key] == wanted[key] for key in wanted}
    print(json.dumps({"resumed_from": resumed, "equal": equal, "versions": versions}))
    sys.exit(not (all(equal.values()) and all(resumed) and resumed and set(versions.values()) == {1}))


if __name__ == "__main__":
    main()
