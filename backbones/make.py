#!/usr/bin/env python3
"""Makes `backbones/minilm-mtpf` from what a study left: the backbone as a difference, and its two primaries in ../adapters.

    cargo build --release
    target/release/trunkline study run studies/main.toml --data DATA_DIR --out OUT --precision bf16
    backbones/make.py --data DATA_DIR --study OUT
    adapters/train.py --data DATA_DIR

Pre-finetuning is deterministic on one kind of machine with as many threads: there the study's arm `task_primary` has these bytes again.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "acceptance"))
from server import default_binary  # noqa: E402

ADAPTERS = HERE.parent / "adapters"
NAME = "minilm-mtpf"
ARM = "task_primary"
LICENCES = {"open", "share-alike"}
PURPOSES = {
    "ner-primary": "NER by names: entity types come with the request (`candidate_labels`), or an adapter starts from it.",
    "classify-primary": "Classification by names: classes come with the request (`candidate_labels`), or an adapter starts from it.",
}


def run(binary, *words):
    command = [str(word) for word in (binary, *words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def pool(data, clearances):
    """A line for each set that pre-finetuning read."""
    index = json.loads((data / "index.json").read_text())["sets"]
    lines = []
    for cleared in clearances:
        place = f"{cleared['family']}/{cleared['set']}"
        entry = index[place]
        if entry["licence_class"] not in LICENCES:
            sys.exit(f"{place}: licence class {entry['licence_class']} may not be published")
        lines.append(f"- {place}, {cleared['kept']} rows: {entry['licence']} ({entry['licence_class']}). {entry['citation']}")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--study", required=True, type=pathlib.Path)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary, arm = arguments.binary or default_binary(), arguments.study / "arms" / ARM
    target = HERE / NAME
    lines = pool(arguments.data, json.loads((arguments.study / "clearances.json").read_text()))
    shutil.rmtree(target, ignore_errors=True)
    print(run(binary, "backbone", "pack", "--backbone", arm / "backbone", "--out", target), end="")
    described = json.loads((target / "difference.json").read_text())
    for name, purpose in PURPOSES.items():
        run(binary, "adapters", "import", name, arm / name, "--backbone", target, "--adapters-dir", ADAPTERS)
        (ADAPTERS / name / "CARD.md").write_text(f"# {name}\n\n{purpose}\nMade with the backbone; see its README.\n")
    card = (HERE / "CARD.template.md").read_text()
    card = card.replace("{fingerprint}", described["fingerprint"]).replace("{parent_fingerprint}", described["parent_fingerprint"])
    (target / "README.md").write_text(card.replace("{pool}", "\n".join(lines)), encoding="utf-8")


if __name__ == "__main__":
    main()
