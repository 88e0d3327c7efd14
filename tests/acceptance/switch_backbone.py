#!/usr/bin/env python3
"""Clients send mixed traffic while a second backbone and the adapters made for it are published, activated and rolled back in a loop.

The second backbone is a copy of the default one whose layers' weights are moved a little, and the adapters on both are those of the
tests; with `--plain` it is the one that the default one was made from, with the adapters of the tests under the names of this
repository's, which are on the first. No request may fail; every answer must name a version and a backbone that could be meant while it was asked, and equal what
exactly that pair answers alone (1e-4).

    tests/acceptance/switch_backbone.py [--seconds 60] [--clients 6] [--plain]
"""

import argparse
import array
import json
import pathlib
import random
import shutil
import struct
import sys
import tempfile
import threading
import time

from server import ROOT, Failure, active_version, archive, default_binary, restored, serving
from wrong_adapter_never import FIXTURES, TEXTS, same, scores, upload

SECOND = "second"
PLAIN = "sentence-transformers/all-MiniLM-L6-v2"
# What the repository has for the default backbone: name and family.
SHIPPED = {"everyday-entities": "ner", "assistant-slots": "ner", "bank-intents": "classify", "emotion": "classify"}
FAULTS_MAX = 20
# Room for what all clients ask at once: here a refusal is a fault.
QUEUE_TOKENS = 8192


def write_moved(source, target):
    """Every second weight of the layers is 6 % larger, the others 6 % smaller."""
    target.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, target / name)
    raw = (source / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8:8 + length]), bytearray(raw[8 + length:])
    for name, entry in header.items():
        if "encoder.layer" in name and name.endswith("weight") and "LayerNorm" not in name:
            begin, end = entry["data_offsets"]
            numbers = array.array("f", bytes(body[begin:end]))
            numbers[::2] = array.array("f", [1.06 * x for x in numbers[::2]])
            numbers[1::2] = array.array("f", [0.94 * x for x in numbers[1::2]])
            body[begin:end] = numbers.tobytes()
    (target / "model.safetensors").write_bytes(raw[:8 + length] + bytes(body))


class History:
    """What was active when: (from the call that made it so, to its answer)."""

    def __init__(self):
        self.steps = {}
        self.lock = threading.Lock()

    def change(self, what, value, call):
        begin = time.monotonic()
        with self.lock:
            self.steps.setdefault(what, []).append([begin, float("inf"), value])
        answer = call()
        with self.lock:
            self.steps[what][-1][1] = time.monotonic()
        return answer

    def admissible(self, what, begin, end):
        """Values that were active at some time from `begin` to `end`."""
        with self.lock:
            steps = list(self.steps[what])
        following = [step[1] for step in steps[1:]] + [float("inf")]
        return {step[2] for step, over in zip(steps, following) if step[0] <= end and over >= begin}


def flat(answer):
    return [("x", x) for x in answer["embeddings"][0]]


def of_the_tests():
    """Adapters with their families, and for each backbone how to publish them: the same ones on both."""
    folders = {f"adapter-{i}": folder for i, folder in enumerate(sorted(path for path in FIXTURES.iterdir() if path.is_dir())[:4])}
    families = {name: "ner" if folder.name.startswith("ner") else "classify" for name, folder in folders.items()}
    put = lambda server, name: upload(server, name, folders[name], 1.0)  # noqa: E731
    return families, [put, put]


def shipped_and_of_the_tests():
    """The repository's adapters on the default backbone; on the plain one the tests' of the same families, under the same names."""
    def shipped(server, name):
        return server.call("PUT", f"/v1/admin/adapters/{name}?activate=true", archive(active_version(ROOT / "adapters" / name)))

    left = {"ner": sorted(FIXTURES.glob("ner-*")), "classify": sorted(FIXTURES.glob("cls-*"))}
    folders = {name: left[family].pop(0) for name, family in SHIPPED.items()}
    return SHIPPED, [shipped, lambda server, name: upload(server, name, folders[name], 1.0)]


class World:
    """The server, what is expected of each pair, and the faults found. `put`: publishes an adapter for the first backbone, and for the second."""

    def __init__(self, server, families, put):
        self.server, self.families, self.put = server, families, put
        self.history, self.expected, self.faults, self.counts = History(), {}, [], {}

    def fault(self, what):
        self.faults.append(what)

    def ask(self, connection, family, adapter, text):
        parameters = {"aggregation_strategy": "none"} if family == "ner" else {}
        return self.server.call("POST", f"/v1/{family}", {"inputs": text, "adapter": adapter, "parameters": parameters}, connection=connection)

    def embed(self, connection, text):
        return self.server.call("POST", "/v1/embed", {"inputs": text}, connection=connection)

    def backbone(self, what, name):
        return self.server.call("POST", f"/v1/admin/backbone/{what}", {"backbone": name})

    def switch(self, name):
        shown = self.history.change("backbone", name, lambda: self.backbone("activate", name))
        if shown["name"] != name:
            self.fault(f"{name} was activated, {shown['name']} is active")

    def activate(self, adapter, version):
        call = lambda: self.server.call("POST", f"/v1/admin/adapters/{adapter}/activate", {"version": version})
        self.history.change(adapter, version, call)

    def learn(self, adapter, version):
        """What this version answers alone."""
        family = self.families[adapter]
        for text in TEXTS:
            answer = self.ask(None, family, f"{adapter}@{version}", text)
            who = answer["adapter"]
            self.expected[who["digest"], who["backbone"]["fingerprint"], text] = scores(family, answer)

    def learn_embeddings(self):
        for text in TEXTS:
            answer = self.embed(None, text)
            self.expected["base", answer["backbone"]["fingerprint"], text] = flat(answer)

    def check(self, who, asked, family, text, answer, begin, end):
        """`asked`: `name` or `name@version`."""
        name, _, version = asked.partition("@")
        admissible = {int(version)} if version else self.history.admissible(name, begin, end)
        if who["name"] != name or who["version"] not in admissible:
            return self.fault(f"{asked}: {who} answered, of versions {admissible} one was meant")
        wanted = self.expected.get((who["digest"], who["backbone"]["fingerprint"], text))
        if wanted is None:
            return self.fault(f"{asked}: no pair is known of {who}")
        if not same(scores(family, answer), wanted):
            self.fault(f"{asked}: {who} answers {text!r} otherwise than alone")
        self.count(who["backbone"]["name"])

    def check_embedding(self, answer, text, begin, end):
        who, admissible = answer["backbone"], self.history.admissible("backbone", begin, end)
        if who["name"] not in admissible:
            return self.fault(f"embed: {who} answered, of {admissible} one was meant")
        if not same(flat(answer), self.expected["base", who["fingerprint"], text]):
            self.fault(f"embed: {who} answers {text!r} otherwise than alone")
        self.count(who["name"])

    def count(self, backbone):
        with self.history.lock:
            self.counts[backbone] = self.counts.get(backbone, 0) + 1


def client(world, seed, end):
    draw, connection, families = random.Random(seed), world.server.connect(), world.families
    while time.monotonic() < end and len(world.faults) < FAULTS_MAX:
        text, what, begin = draw.choice(TEXTS), draw.random(), time.monotonic()
        name = draw.choice(list(families))
        asked = name if draw.random() < 0.7 else f"{name}@{draw.choice((1, 2))}"
        try:
            if what < 0.6:
                answer = world.ask(connection, families[name], asked, text)
                world.check(answer["adapter"], asked, families[name], text, answer, begin, time.monotonic())
            elif what < 0.85:
                every = sorted({asked, *families})
                body = {"inputs": text, "adapters": every, "parameters": {"ner": {"aggregation_strategy": "none"}}}
                answer = world.server.call("POST", "/v1/analyze", body, connection=connection)
                over = time.monotonic()
                for one in every:
                    who, result = answer["adapters"].get(one), answer["results"][0][one]
                    if who is None:
                        world.fault(f"analyze: {one}: {result}")
                    else:
                        world.check(who, one, families[one.partition("@")[0]], text, {"results": [result]}, begin, over)
            else:
                world.check_embedding(world.embed(connection, text), text, begin, time.monotonic())
        except (Failure, OSError) as error:
            world.fault(f"{asked}: {error!r}")
            connection = world.server.connect()


def churn(world, first, end, rounds):
    """Switches and rolls back; every second time with adapters published for the occasion and retired again."""
    while time.monotonic() < end and len(world.faults) < FAULTS_MAX:
        try:
            for backbone, version in ((SECOND, 2), (first, 1)):
                world.switch(backbone)
                for adapter in world.families:
                    if rounds[0] % 2:
                        publish_and_retire(world, adapter, version)
                    else:
                        world.activate(adapter, version)
            rounds[0] += 1
        except (Failure, OSError) as error:
            world.fault(f"switch: {error!r}")


def publish_and_retire(world, adapter, version):
    """A new version, made for the backbone that is active, answers for a moment before `version` does."""
    # Its number is known only afterwards: the next one after the highest ever.
    number = world.published[adapter] = world.published[adapter] + 1
    got = world.history.change(adapter, number, lambda: world.put[version - 1](world.server, adapter))
    if got["version"] != number:
        world.fault(f"{adapter}: version {number} was published, {got['version']} is its number")
    world.activate(adapter, version)
    world.server.call("DELETE", f"/v1/admin/adapters/{adapter}?version={number}")


def memory(server):
    metrics = server.call("GET", "/metrics").decode()
    return next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("process_resident_memory_bytes ")) / 2**20


def prepare(world):
    """Version 1 of each adapter for the first backbone, version 2 for the second; the first is active at the end."""
    first = world.server.call("GET", "/v1/admin/backbone")["name"]
    for version, backbone in ((1, first), (2, SECOND)):
        world.switch(backbone)
        world.learn_embeddings()
        for adapter in world.families:
            world.history.change(adapter, version, lambda: world.put[version - 1](world.server, adapter))
            world.learn(adapter, version)
    world.published = dict.fromkeys(world.families, 2)
    world.switch(first)
    for adapter in world.families:
        world.activate(adapter, 1)
    for text in TEXTS:
        one, other = (vector for (who, _, of), vector in world.expected.items() if (who, of) == ("base", text))
        if same(one, other):
            sys.exit(f"the backbones answer {text!r} alike: a wrong pair would not show")
    return first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary = arguments.binary or default_binary()
    with tempfile.TemporaryDirectory(prefix="trunkline-") as state:
        second = pathlib.Path(state) / "backbones" / SECOND
        if arguments.plain:
            shutil.copytree(restored(binary, "--backbone", PLAIN), second)
        else:
            write_moved(restored(binary), second)
        with serving(binary, f"--max-queue-tokens={QUEUE_TOKENS}", state=pathlib.Path(state)) as server:
            world = World(server, *(shipped_and_of_the_tests() if arguments.plain else of_the_tests()))
            before = memory(server)
            first, rounds = prepare(world), [0]
            end = time.monotonic() + arguments.seconds
            threads = [threading.Thread(target=client, args=(world, seed, end)) for seed in range(arguments.clients)]
            threads.append(threading.Thread(target=churn, args=(world, first, end, rounds)))
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            shown = server.call("GET", "/v1/admin/backbone")
            sizes = ", ".join(f"{one['name']} {one['bytes'] / 2**20:.0f} MiB for {len(one['adapters'])} versions" for one in shown["resident"])
            print(f"memory of the process: {before:.0f} MiB with one backbone, {memory(server):.0f} MiB with two ({sizes})")
    answers = ", ".join(f"{count} by {name}" for name, count in sorted(world.counts.items()))
    print(f"{rounds[0]} switches and as many roll-backs under {arguments.clients} clients; answers: {answers}; {len(world.faults)} faults")
    for fault in world.faults[:10]:
        print("fault:", fault)
    sys.exit(1 if world.faults or not rounds[0] or len(world.counts) < 2 else 0)


if __name__ == "__main__":
    main()
