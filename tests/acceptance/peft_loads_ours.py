#!/usr/bin/env python3
"""What we write loads in PEFT with the same answers: every adapter of the store, loaded by the real PEFT package, against the server.

Not part of tests/run: PyPI has no CPU-only PyTorch for x86-64, and the CUDA wheels are some gigabytes.

    python3 -m venv /tmp/peft && /tmp/peft/bin/pip install -r tests/acceptance/peft_requirements.txt
    /tmp/peft/bin/python tests/acceptance/peft_loads_ours.py [--adapters adapters]

Classification: logits within 1e-4. NER: the same tag on every token, its probability within 1e-4.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from server import ROOT, default_binary, serving  # noqa: E402

TOLERANCE = 1e-4
TEXTS = [
    "Meet Anna Kowalska at the Hilton in Kraków on Friday at 3pm.",
    "my card still hasn't arrived, what should I do?",
    "WINNER!! You have been selected for a £900 prize, call 09061701461",
    "remind me to buy two litres of milk tomorrow morning",
    "I can't believe how happy this makes me 🙂",
    "a",
]


def backbone(binary):
    listing = subprocess.run([str(binary), "backbone", "fetch"], check=True, capture_output=True, text=True).stdout
    return listing.split()[-1]


def load(folder, base):
    """PEFT's own way: the task model on the backbone, the adapter (with its head) on top."""
    card = json.loads((folder / "trunkline.json").read_text())
    kind = transformers.AutoModelForTokenClassification if card["family"] == "ner" else transformers.AutoModelForSequenceClassification
    labels = card["labels"]
    model = kind.from_pretrained(base, num_labels=len(labels), id2label=dict(enumerate(labels)), label2id={l: i for i, l in enumerate(labels)})
    return peft.PeftModel.from_pretrained(model, folder).eval(), card


def compare_classify(server, name, model, tokenizer, card, text):
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=card["max_length"])
    with torch.no_grad():
        wanted = model(**inputs).logits[0]
    answer = server.call("POST", "/v1/classify", {"inputs": text, "adapter": name, "parameters": {"function_to_apply": "none"}})
    got = {label["label"]: label["score"] for label in answer["results"][0]["labels"]}
    return max(abs(got[label] - wanted[i].item()) for i, label in enumerate(card["labels"]))


def compare_ner(server, name, model, tokenizer, card, text):
    inputs = tokenizer(text, return_tensors="pt", return_offsets_mapping=True, truncation=True, max_length=card["max_length"])
    offsets = inputs.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        wanted = model(**inputs).logits[0].softmax(-1)
    parameters = {"aggregation_strategy": "none", "ignore_labels": []}
    answer = server.call("POST", "/v1/ner", {"inputs": text, "adapter": name, "parameters": parameters})
    got = {entity["index"]: entity for entity in answer["results"][0]["entities"]}
    worst = 0.0
    for index, (start, end) in enumerate(offsets):
        if start == end:
            continue
        score, best = wanted[index].max(-1)
        entity = got[index]
        assert (entity["start"], entity["end"]) == (start, end), (entity, start, end)
        assert entity["entity"] == card["labels"][best], (text, index, entity, card["labels"][best])
        worst = max(worst, abs(entity["score"] - score.item()))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=pathlib.Path, default=ROOT / "adapters")
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary = arguments.binary or default_binary()
    base = backbone(binary)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    failed = False
    with serving(binary, "--precision", "f32", adapters=arguments.adapters) as server, tempfile.TemporaryDirectory() as temp:
        for adapter in server.call("GET", "/v1/adapters")["data"]:
            folder = pathlib.Path(temp) / adapter["name"]
            with tarfile.open(fileobj=io.BytesIO(server.call("GET", f"/v1/admin/adapters/{adapter['name']}/download"))) as tar:
                tar.extractall(folder, filter="data")
            model, card = load(folder, base)
            compare = compare_ner if card["family"] == "ner" else compare_classify
            worst = max(compare(server, adapter["name"], model, tokenizer, card, text) for text in TEXTS)
            failed |= worst > TOLERANCE
            print(f"{adapter['name']}@{adapter['active_version']}: {card['family']}, greatest difference {worst:.2e}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
