#!/usr/bin/env python3
"""What starting from a pre-finetuned backbone's primaries is worth, over the API: names alone, eight examples, a tenth of the rows.

    cargo build --release
    tests/acceptance/from_primaries.py --data DATA_DIR [--seeds 3]

Each step runs twice in one run, on the plain backbone and on the default one (the trunk), with the same rows and the same LoRA (rank 16, last
two layers):

- names: banking77 (dev) and ag_news_small (test) by their label names, bare and in a sentence. The plain backbone has no primary, so
  its side is the cosine of `/v1/embed`; the trunk's is `candidate_labels`.
- 8-shot: banking77, eight rows a class and `auto` for the rest (some of those rows are held out to validate on); accuracy on dev,
  seconds of the job.
- tenth: mit_movie, every tenth row, 12 epochs, validated on dev; entity F1 on test.

DATA_DIR holds classify/banking77, classify/ag_news_small and ner/mit_movie as {train,dev,test}.jsonl.gz. Prints JSON lines; exits with 1
if a bound is missed (BOUNDS below).
"""

import argparse
import gzip
import json
import pathlib
import random
import shutil
import statistics
import sys
import tempfile
import time

from server import ROOT, default_binary, serving

SHOTS = 8
TEMPLATES = ["{}", "This text is about {}."]
NAMED = [("banking77", "dev"), ("ag_news_small", "test")]
# What the plain side trains with; an adapter that starts from a primary takes the primary's own rank and layers, the same ones.
PLAIN = {"rank": 16, "alpha": 32, "layers": "last:2"}
# PEFT and PyTorch reach 0.699 on a tenth of mit_movie from the plain backbone: LoRA in the last two layers, 12 epochs.
PEFT_TENTH = 0.699
PLAIN_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
BOUNDS = {"8-shot accuracy": 0.80, "8-shot seconds": 60.0, "tenth over PEFT": 0.04, "tenth over plain": 0.04, "names over plain": 0.03}
INPUTS_PER_REQUEST = 16


def rows_of(data, family, name, split):
    with gzip.open(data / family / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def shots(rows, seed):
    """Eight rows of each class."""
    rows, taken, kept = list(rows), {}, []
    random.Random(seed).shuffle(rows)
    for row in rows:
        if taken.setdefault(row["label"], 0) < SHOTS:
            taken[row["label"]] += 1
            kept.append(row)
    return kept


def tenth(rows, seed):
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows[: len(rows) // 10]


def embeddings(server, texts):
    found = []
    for at in range(0, len(texts), INPUTS_PER_REQUEST):
        found += server.call("POST", "/v1/embed", {"inputs": texts[at:at + INPUTS_PER_REQUEST]})["embeddings"]
    return found


def nearest(server, rows, names, template):
    """Of every row the class whose name, in the template, has the greatest cosine."""
    targets = embeddings(server, [template.replace("{}", name.replace("_", " ")) for name in names])
    product = lambda a, b: sum(x * y for x, y in zip(a, b))  # noqa: E731 (both are of unit length)
    return [max(zip(names, targets), key=lambda named: product(vector, named[1]))[0] for vector in embeddings(server, [row["text"] for row in rows])]


def named(server, rows, names, template):
    """The same by `classify-primary`."""
    found = []
    for at in range(0, len(rows), INPUTS_PER_REQUEST):
        parameters = {"candidate_labels": names, "hypothesis_template": template, "top_k": 1}
        body = {"adapter": "classify-primary", "inputs": [row["text"] for row in rows[at:at + INPUTS_PER_REQUEST]], "parameters": parameters}
        found += [result["labels"][0]["label"] for result in server.call("POST", "/v1/classify", body)["results"]]
    return found


def names_alone(server, data, answer):
    """Accuracy by (set, template)."""
    found = {}
    for name, split in NAMED:
        rows = rows_of(data, "classify", name, split)
        names = sorted({row["label"] for row in rows})
        for template in TEMPLATES:
            got = answer(server, rows, names, template)
            found[name, template] = statistics.mean(label == row["label"] for label, row in zip(got, rows))
    return found


def upload(server, name, family, split, rows):
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    server.call("PUT", f"/v1/admin/datasets/{name}?family={family}&split={split}", body)


def trained(server, name, family, splits, hyperparameters, init_from):
    """The job's report and its seconds."""
    wanted = {}
    for split, part in (("train", "train"), ("dev", "validation"), ("test", "test")):
        if split in splits:
            upload(server, name, family, split, splits[split])
            wanted[part] = f"{name}:{split}"
    job = {"kind": "fine_tune", "adapter": name, "family": family, "data": wanted, "hyperparameters": hyperparameters}
    began = time.monotonic()
    job = server.call("POST", "/v1/admin/jobs", {**job, "init_from": init_from} if init_from else job)
    for _event in server.events(job["id"]):
        pass
    seconds = time.monotonic() - began
    job = server.call("GET", f"/v1/admin/jobs/{job['id']}")
    if job["status"] != "succeeded":
        sys.exit(f"{name}: {job['status']}: {job['error']}")
    return server.call("GET", f"/v1/admin/jobs/{job['id']}/report"), seconds


def eight_shot(server, data, seed, init_from):
    splits = {"train": shots(rows_of(data, "classify", "banking77", "train"), seed), "test": rows_of(data, "classify", "banking77", "dev")}
    report, seconds = trained(server, f"shots-{seed}", "classify", splits, {} if init_from else PLAIN, init_from)
    return report["test"]["classification"]["accuracy"], seconds


def a_tenth(server, data, seed, init_from):
    rows = {split: rows_of(data, "ner", "mit_movie", split) for split in ("train", "dev", "test")}
    hyperparameters = {"epochs": 12, **({} if init_from else PLAIN)}
    report, seconds = trained(server, f"tenth-{seed}", "ner", {**rows, "train": tenth(rows["train"], seed)}, hyperparameters, init_from)
    return report["test"]["ner"]["micro"]["f1"], seconds


def side(server, data, seeds, primaries):
    """Everything on one backbone."""
    found = {"names": names_alone(server, data, named if primaries else nearest)}
    for step, run, family in (("8-shot", eight_shot, "classify"), ("tenth", a_tenth, "ner")):
        found[step] = [run(server, data, seed, f"{family}-primary" if primaries else None) for seed in seeds]
        for seed, (score, seconds) in zip(seeds, found[step]):
            print(json.dumps({"primaries": primaries, "step": step, "seed": seed, "score": round(score, 4), "seconds": round(seconds, 1)}), flush=True)
    for (name, template), accuracy in found["names"].items():
        print(json.dumps({"primaries": primaries, "step": "names", "set": name, "template": template, "score": round(accuracy, 4)}), flush=True)
    return found


def reached(plain, trunk):
    """What the bounds are about: means over seeds; of names the least gain over the bare names' plain cosine, each set by its best template."""
    mean = lambda found, step, which: statistics.mean(run[which] for run in found[step])  # noqa: E731
    best = [max(trunk["names"][name, template] for template in TEMPLATES) - plain["names"][name, "{}"] for name, _split in NAMED]
    return {
        "8-shot accuracy": mean(trunk, "8-shot", 0),
        "8-shot seconds": max(run[1] for run in trunk["8-shot"]),
        "tenth over PEFT": mean(trunk, "tenth", 0) - PEFT_TENTH,
        "tenth over plain": mean(trunk, "tenth", 0) - mean(plain, "tenth", 0),
        "names over plain": min(best),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary, seeds = arguments.binary or default_binary(), range(1, arguments.seeds + 1)
    sides = {}
    for primaries in (False, True):
        with tempfile.TemporaryDirectory(prefix="trunkline-primaries-") as scratch:
            store, flags = pathlib.Path(scratch) / "adapters", ["--max-queue-tokens", "1000000"]
            if primaries:
                shutil.copytree(ROOT / "adapters", store)
            else:
                flags += ["--backbone", PLAIN_BACKBONE]
            with serving(binary, *flags, adapters=store) as server:
                sides[primaries] = side(server, arguments.data, seeds, primaries)
    missed = 0
    for name, value in reached(sides[False], sides[True]).items():
        ok = value <= BOUNDS[name] if name.endswith("seconds") else value >= BOUNDS[name]
        missed += not ok
        print(f"RESULT {name}: {value:.3f} (wanted {BOUNDS[name]}): {'ok' if ok else 'MISSED'}")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
