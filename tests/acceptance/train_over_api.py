#!/usr/bin/env python3
"""Upload data, train with `auto` hyper-parameters, watch the events, use the new adapter: all over the API, on a fresh state folder.

    cargo build --release
    tests/acceptance/train_over_api.py --data DATA_DIR

DATA_DIR holds classify/banking77, ner/mit_restaurant and ner/wnut17, each with {train,dev,test}.jsonl.gz as far as they are published.
"""

import argparse
import pathlib
import sys
import time

from server import default_binary, serving

# name, family, which split is the figure's, its name, the least that passes (None: only reported), a text to try
RUNS = [
    ("banking77", "classify", "validation", "accuracy", 0.907, "my card has not arrived yet, where is it?"),
    ("mit_restaurant", "ner", "test", "entity F1", 0.74, "is there a cheap thai place near the station open until midnight"),
    ("wnut17", "ner", "validation", "entity F1", 0.539, "just landed in Heathrow to see Coldplay with Anna"),
]


def figure(report, family):
    return report["classification"]["accuracy"] if family == "classify" else report["ner"]["micro"]["f1"]


def run(server, data, name, family, part, metric, least, text):
    folder = pathlib.Path(data) / family / name
    splits = {split: folder / f"{split}.jsonl.gz" for split in ("train", "dev", "test")}
    splits = {split: path for split, path in splits.items() if path.exists()}
    for split, path in splits.items():
        report = server.upload(name, family, split, path)
        print(f"{name}: uploaded {split}: {report['rows']} rows, {len(report['warnings'])} warnings")
    wanted = {"train": f"{name}:train", "validation": f"{name}:dev"}
    if "test" in splits:
        wanted["test"] = f"{name}:test"
    began = time.monotonic()
    job = server.call("POST", "/v1/admin/jobs", {"kind": "fine_tune", "adapter": name.replace("_", "-"), "family": family, "data": wanted})
    for event in server.events(job["id"]):
        validation = (event.get("data") or {}).get("validation")
        if event["type"] != "metrics":
            print(f"{name}: {event['message']}")
        elif validation:
            print(f"{name}: step {event['data']['step']} loss {event['data'].get('loss', float('nan')):.4f} validation {validation}")
    wall = time.monotonic() - began
    job = server.call("GET", f"/v1/admin/jobs/{job['id']}")
    if job["status"] != "succeeded":
        sys.exit(f"{name}: {job['status']}: {job['error']}")
    report = server.call("GET", f"/v1/admin/jobs/{job['id']}/report")
    reached = figure(report[part], family)
    answer = server.call("POST", f"/v1/{family}", {"inputs": text, "adapter": name.replace("_", "-")})
    assert answer["adapter"]["version"] == job["result"]["version"], answer
    passed = least is None or reached >= least
    print(f"RESULT {name}: {part} {metric} {reached:.4f} (wanted {least}), {wall:.0f} s wall, "
          f"{report['rows_per_second']:.0f} rows/s in training: {'ok' if passed else 'MISSED'}")
    print(f"{name}: answers {text!r} with {answer['results'][0]}"[:400])
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--binary", default=None)
    parser.add_argument("--only", default=None, help="one data set's name")
    arguments = parser.parse_args()
    runs = [run_ for run_ in RUNS if arguments.only in (None, run_[0])]
    with serving(arguments.binary or default_binary()) as server:
        passed = [run(server, arguments.data, *each) for each in runs]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
