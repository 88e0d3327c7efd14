#!/usr/bin/env python3
"""The shipped adapters answer the same in bf16 as in f32, on the ten data sets they were trained for.

Labels: NER compares the tag of every word (of its first token), classification the best label of every row; at least 99.9 % of
each set's must be equal. Quality: entity F1 or accuracy against the set's own labels (`trunkline evaluate`) may differ by 0.1
point at most. Rows are the test split's, the dev split's where no test split is published.

    cargo build --release
    tests/acceptance/bf16_agrees.py --data DATA_DIR [--only SET] [--trunk DIR, a backbone with a store `adapters` in it]

DATA_DIR holds FAMILY/SET/{dev,test}.jsonl.gz.
"""

import argparse
import concurrent.futures
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile

from server import ROOT, default_binary, serving

sys.path.insert(0, str(ROOT / "adapters"))
from train import RECIPES, unified  # noqa: E402

AGREEMENT_MIN = 0.999
QUALITY_POINTS_MAX = 0.1
INPUTS_PER_REQUEST = 16
# The check is of numbers, not of admission: nothing it sends may be refused.
FLAGS = ["--max-queue-tokens", "1000000"]


def rows_of(data, family, name):
    """The split's name and its rows, with the adapter's names of types where several sets were joined."""
    folder = pathlib.Path(data) / family / name
    split = "test" if (folder / "test.jsonl.gz").exists() else "dev"
    with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return split, rows


def sets():
    for adapter, family, names, _purpose in RECIPES:
        for name in names:
            yield name, family, adapter, len(names) > 1


def answers(server, family, adapter, rows):
    """Of every row its (label, score) list: one a word, or the two best classes."""
    groups = [rows[at:at + INPUTS_PER_REQUEST] for at in range(0, len(rows), INPUTS_PER_REQUEST)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda group: ask(server, family, adapter, group), groups)
        return [answer for group in found for answer in group]


def ask(server, family, adapter, rows):
    if family == "classify":
        body = {"adapter": adapter, "inputs": [row["text"] for row in rows], "parameters": {"top_k": 2}}
        results = server.call("POST", "/v1/classify", body)["results"]
        return [[(label["label"], label["score"]) for label in result["labels"]] for result in results]
    parameters = {"aggregation_strategy": "none", "ignore_labels": []}
    body = {"adapter": adapter, "inputs": [row["tokens"] for row in rows], "parameters": parameters}
    results = server.call("POST", "/v1/ner", body)["results"]
    return [words(row["tokens"], result["entities"]) for row, result in zip(rows, results)]


def words(tokens, entities):
    """(tag, score) of each word's first token; a word the tokenizer drops has none."""
    by_start = {}
    for entity in entities:
        by_start.setdefault(entity["start"], (entity["entity"], entity["score"]))
    tags, at = [], 0
    for token in tokens:
        if at in by_start:
            tags.append(by_start[at])
        at += len(token) + 1
    return tags


def labels(family, answer):
    return answer if family == "ner" else answer[:1]


def compare(family, exact, rounded):
    """The number of labels, and of those that differ how near to a tie they were in f32."""
    count, others = 0, []
    for one, other in zip(exact, rounded, strict=True):
        for wanted, got in zip(labels(family, one), labels(family, other), strict=True):
            count += 1
            if wanted[0] != got[0]:
                others.append(closeness(family, wanted, one))
    return count, sorted(others)


def closeness(family, wanted, answer):
    """How near to a tie the f32 answer was. Classification: its two best scores' difference. NER tells the best score alone."""
    return answer[0][1] - answer[1][1] if family == "classify" else wanted[1]


def place(trunk):
    """Flags for a pre-finetuned backbone and its own store; none for the default ones."""
    return ["--backbone", str(trunk.resolve()), "--adapters-dir", str(trunk.resolve() / "adapters")] if trunk else []


def quality(binary, adapter, family, path, precision, trunk):
    command = [binary, "evaluate", *place(trunk), "--adapter", adapter, "--dataset", path, "--precision", precision, "--json"]
    out = subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    return 100 * (report["classification"]["accuracy"] if family == "classify" else report["ner"]["micro"]["f1"])


def qualities(binary, adapter, family, rows, joined, trunk):
    """Points in f32 and bf16."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(unified(row) if joined else row, ensure_ascii=False) + "\n")
        file.flush()
        return [quality(binary, adapter, family, file.name, precision, trunk) for precision in ("f32", "bf16")]


def check(binary, servers, data, trunk, name, family, adapter, joined):
    split, rows = rows_of(data, family, name)
    exact, rounded = (answers(server, family, adapter, rows) for server in servers)
    count, others = compare(family, exact, rounded)
    points = qualities(binary, adapter, family, rows, joined, trunk)
    agreement = 1 - len(others) / count
    moved = abs(points[0] - points[1])
    passed = agreement >= AGREEMENT_MIN and moved <= QUALITY_POINTS_MAX
    unit = "words" if family == "ner" else "rows"
    print(f"{name:15} {adapter:18} {split:4} {count:6} {unit:5} {100 * agreement:8.3f} % equal, {len(others):3} differ; "
          f"f32 {points[0]:.3f}, bf16 {points[1]:.3f}: {moved:.3f} points {'ok' if passed else 'MISSED'}", flush=True)
    if others:
        what = "best score" if family == "ner" else "lead of the best score"
        print(f"{'':15} where they differ, the {what} in f32: {others[0]:.4f} to {others[-1]:.4f}, median {others[len(others) // 2]:.4f}", flush=True)
    return passed, count, len(others)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--only")
    parser.add_argument("--trunk", default=None, type=pathlib.Path)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary = arguments.binary or default_binary()
    chosen = [entry for entry in sets() if arguments.only in (None, entry[0])]
    trunk = arguments.trunk
    store = trunk.resolve() / "adapters" if trunk else ROOT / "adapters"
    flags = [*place(trunk)[:2], *FLAGS]
    with serving(binary, "--precision", "f32", *flags, adapters=store) as exact:
        with serving(binary, "--precision", "bf16", *flags, adapters=store) as rounded:
            results = [check(binary, (exact, rounded), arguments.data, trunk, *entry) for entry in chosen]
    count, others = (sum(result[at] for result in results) for at in (1, 2))
    passed = bool(results) and all(result[0] for result in results)
    print(f"{len(results)} sets, {count} labels, {others} differ: {100 * (1 - others / max(count, 1)):.4f} % equal; {'passed' if passed else 'MISSED'}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
