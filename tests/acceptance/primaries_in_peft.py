#!/usr/bin/env python3
"""What pre-finetuning leaves loads elsewhere with the same answers: the backbone in transformers, its primaries in PEFT, against the server.

    trunkline train pre-finetune … --out OUT
    tests/acceptance/primaries_in_peft.py OUT
    tests/acceptance/primaries_in_peft.py backbones/minilm-mtpf

The folder is what a run left, or one of `backbones/`. Needs the packages of peft_requirements.txt. Mean-pooled embeddings through each primary, and the similarity head's scores, within 1e-4.
"""

import argparse
import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import peft  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from peft_loads_ours import TEXTS, TOLERANCE  # noqa: E402
from server import active_version, archive, default_binary, restored, serving  # noqa: E402

PRIMARIES = ["ner-primary", "classify-primary"]
LABELS = ["travel", "card payment", "cold weather"]


def embed(model, tokenizer, text):
    with torch.no_grad():
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(0), dim=0)


def places(binary, out):
    """Of a run, or of a packed backbone: the whole backbone's folder, and each primary's."""
    if (out / "backbone").is_dir():
        return out / "backbone", {name: out / name for name in PRIMARIES}
    return restored(binary, "--backbone", str(out)), {name: active_version(out / "adapters" / name) for name in PRIMARIES}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    binary = arguments.binary or default_binary()
    backbone, folders = places(binary, arguments.out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(backbone)
    worst = {}
    with serving(binary, "--backbone", str(backbone), "--precision", "f32") as server:
        for name, folder in folders.items():
            server.call("PUT", f"/v1/admin/adapters/{name}", archive(folder), {"content-type": "application/x-tar"})
            model = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(backbone), folder).eval()
            ours = server.call("POST", "/v1/embed", {"inputs": TEXTS, "adapter": name})["embeddings"]
            theirs = [embed(model, tokenizer, text) for text in TEXTS]
            worst[name] = max((torch.tensor(x) - y).abs().max().item() for x, y in zip(ours, theirs))
        scale = safetensors.torch.load_file(folder / "concept_head.safetensors")["log_scale"].exp()
        names = torch.stack([embed(model, tokenizer, label) for label in LABELS])
        wanted = [(scale * names @ text).softmax(0) for text in theirs]
        request = {"inputs": TEXTS, "adapter": "classify-primary", "parameters": {"candidate_labels": LABELS}}
        for result, scores in zip(server.call("POST", "/v1/classify", request)["results"], wanted):
            got = {label["label"]: label["score"] for label in result["labels"]}
            off = max(abs(got[label] - score.item()) for label, score in zip(LABELS, scores))
            worst["similarity"] = max(worst.get("similarity", 0.0), off)
    print(json.dumps(worst))
    sys.exit(max(worst.values()) > TOLERANCE)


if __name__ == "__main__":
    main()
