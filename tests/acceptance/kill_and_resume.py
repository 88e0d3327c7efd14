#!/usr/bin/env python3
"""`kill -9` at random moments of training and of publication.

Training: the job must go on from its checkpoint after each restart, and its adapter must have the very bytes of an undisturbed run.
Publication: whatever moment the kill hits, every version that is listed is whole and the active one answers.

    tests/acceptance/kill_and_resume.py [--kills 10] [--seed 1]
"""

import argparse
import gzip
import io
import json
import pathlib
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

from server import Failure, Server, default_binary
from wrong_adapter_never import FIXTURES, TEXTS, ask, upload

WORDS = {
    "weather": ["rain", "sunny", "forecast", "umbrella", "storm", "cloudy", "degrees"],
    "music": ["song", "play", "album", "band", "guitar", "volume", "track"],
    "travel": ["flight", "hotel", "ticket", "airport", "train", "luggage", "visa"],
    "food": ["pizza", "recipe", "restaurant", "dinner", "vegan", "table", "menu"],
}


def rows(count, seed):
    """A small made-up task: which topic a line of words is about."""
    draw = random.Random(seed)
    for _ in range(count):
        label = draw.choice(sorted(WORDS))
        words = [draw.choice(WORDS[label]) for _ in range(3)] + [draw.choice("please can you find me the a some".split()) for _ in range(5)]
        draw.shuffle(words)
        yield {"text": " ".join(words), "label": label}


def train_spec(server):
    for split, count, seed in (("train", 2400, 1), ("dev", 120, 2)):
        body = gzip.compress("".join(json.dumps(row) + "\n" for row in rows(count, seed)).encode())
        server.call("PUT", f"/v1/admin/datasets/topics?family=classify&split={split}", body)
    return {
        "kind": "fine_tune", "adapter": "topics", "family": "classify", "data": {"train": "topics:train", "validation": "topics:dev"},
        "hyperparameters": {"epochs": 8, "batch_size": 16, "early_stopping_patience": 8},
    }


def weights(server):
    tar = tarfile.open(fileobj=io.BytesIO(server.call("GET", "/v1/admin/adapters/topics/download")))
    return {name: tar.extractfile(name).read() for name in ("adapter_config.json", "adapter_model.safetensors")}


def is_over(job):
    return job["status"] in ("succeeded", "rejected", "failed", "cancelled")


def wait(server, job):
    """The finished job."""
    while True:
        job = server.call("GET", f"/v1/admin/jobs/{job['id']}")
        if is_over(job):
            return job
        time.sleep(0.1)


def undisturbed(binary, folder):
    server = Server(binary, folder / "calm", folder / "calm-adapters").start()
    began = time.monotonic()
    job = wait(server, server.call("POST", "/v1/admin/jobs", train_spec(server)))
    took = time.monotonic() - began
    assert job["status"] == "succeeded", job
    files = weights(server)
    server.stop()
    return files, took


def at_step(server, job, share):
    """The job once this share of its steps is done, or it is over."""
    while True:
        job = server.call("GET", f"/v1/admin/jobs/{job['id']}")
        progress = job["progress"]
        if is_over(job) or (progress["steps"] and progress["step"] >= share * progress["steps"]):
            return job
        time.sleep(0.05)


def resumed_from(server, job):
    """The steps of the checkpoints that the job went on from."""
    events = server.call("GET", f"/v1/admin/jobs/{job['id']}/events?after=0")["data"]
    said = (re.search(r"goes on from the checkpoint of step (\d+)", event["message"] or "") for event in events)
    return [int(match[1]) for match in said if match]


def killed(binary, folder, kills, draw):
    server = Server(binary, folder / "storm", folder / "storm-adapters").start()
    job, done = server.call("POST", "/v1/admin/jobs", train_spec(server)), 0
    # By steps, not by time: a kill costs up to an epoch, so kills at random times would all hit the first one.
    for share in sorted(draw.random() for _ in range(kills)):
        state = at_step(server, job, share)
        time.sleep(draw.uniform(0, 0.1))
        if is_over(state):
            break
        server.kill()
        done += 1
        print(f"kill {done}: job was {state['status']} at step {state['progress']['step']} of {state['progress']['steps']}")
        server.start()
    job = wait(server, job)
    resumed = resumed_from(server, job)
    files = weights(server) if job["status"] == "succeeded" else {}
    versions = server.call("GET", "/v1/adapters/topics")["versions"] if files else []
    server.stop()
    return job, files, done, resumed, versions


def publication(binary, folder, kills, draw):
    """Uploads without a pause, killed at random moments."""
    server = Server(binary, folder / "publish", folder / "publish-adapters").start()
    faults = []
    for _ in range(kills):
        stop = threading.Event()

        def uploads():
            scale = 1.0
            while not stop.is_set():
                try:
                    upload(server, "busy", FIXTURES / "ner-r8-qv", scale)
                except (Failure, OSError):
                    return
                scale += 0.01

        thread = threading.Thread(target=uploads)
        thread.start()
        time.sleep(draw.uniform(0.02, 1.0))
        server.kill()
        stop.set()
        thread.join()
        check = subprocess.run([str(binary), "adapters", "verify", "--adapters-dir", str(folder / "publish-adapters")], capture_output=True, text=True)
        if check.returncode:
            faults.append(check.stderr)
        server.start()
        listed = {adapter["name"]: adapter for adapter in server.call("GET", "/v1/adapters")["data"]}
        if "busy" in listed and listed["busy"]["active_version"]:
            answer = ask(server, None, "ner", "busy", TEXTS[0])
            if answer["adapter"]["version"] != listed["busy"]["active_version"]:
                faults.append(f"active {listed['busy']['active_version']}, answered by {answer['adapter']}")
        broken = [v for v in listed.get("busy", {"versions": []})["versions"] if v["state"] == "failed"]
        faults.extend(f"half a version: {v}" for v in broken)
    count = len(listed.get("busy", {"versions": []})["versions"])
    server.stop()
    left = [str(p) for p in (folder / "publish-adapters").rglob(".tmp*")]
    if left:
        faults.append(f"left behind: {left}")
    return faults, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary, draw = arguments.binary or default_binary(), random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="trunkline-kill-") as folder:
        folder = pathlib.Path(folder)
        calm, took = undisturbed(binary, folder)
        print(f"undisturbed: {took:.1f} s")
        job, files, done, resumed, versions = killed(binary, folder, arguments.kills, draw)
        equal = files == calm
        print(f"training: {done} kills, job {job['status']}, {len(versions)} version(s), adapter bytes equal to the undisturbed run's: {equal}")
        print(f"training went on from the checkpoints of steps {resumed}")
        faults, count = publication(binary, folder, arguments.kills, draw)
        print(f"publication: {arguments.kills} kills, {count} whole versions, {len(faults)} faults")
        for fault in faults:
            print("fault:", fault)
    sys.exit(0 if equal and done == arguments.kills and resumed and len(versions) == 1 and not faults else 1)


if __name__ == "__main__":
    main()
