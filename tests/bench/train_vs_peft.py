#!/usr/bin/env python3
"""Fine-tuning end to end against PEFT and PyTorch: the same backbone, data, rank, layers, batch size and epochs, on the same
threads, one after the other in one run. Prints seconds, rows/s, accuracy on the validation rows, and the ratio.

    python3 -m venv VENV && VENV/bin/pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2 numpy
    cargo build --release
    VENV/bin/python tests/bench/train_vs_peft.py --data DIR [--epochs 2] [--rounds 2]

DIR holds classify/banking77/{train,dev}.jsonl.gz with rows {"text", "label"}. The other side keeps its usual learning rate for
LoRA (1e-3, linear decay); ours settles its own. PyTorch recomputes the frozen lower layers at every step, as its users' loops
do; we compute them once, which is part of what is compared.
"""

import argparse
import gzip
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH = 32
RANK = 8
LAYERS = [4, 5]
LENGTH_MAX = 128


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def ours(arguments, folder, epochs):
    """Seconds, and the validation accuracy that the command prints."""
    with tempfile.TemporaryDirectory() as state:
        command = [arguments.binary, "train", "fine-tune", "--adapter", "bench", "--family", "classify"]
        command += ["--train", folder / "train.jsonl.gz", "--validation", folder / "dev.jsonl.gz", "--publish", "never"]
        command += ["--set", f"epochs={epochs}", "--set", "layers=last:2", "--set", f"batch_size={BATCH}"]
        command += ["--threads", str(arguments.threads), "--state-dir", state, "--adapters-dir", f"{state}/adapters"]
        began = time.monotonic()
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
    found = re.findall(r"^validation +accuracy ([0-9.]+)", run.stdout + run.stderr, re.MULTILINE)
    if run.returncode != 0 or not found:
        sys.exit(f"our run failed:\n{run.stdout}\n{run.stderr}")
    return seconds, float(found[-1])


def theirs(arguments, train, dev, epochs):
    """The loop a PEFT user writes: padded batches, AdamW, linear decay; f32."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    began = time.monotonic()
    torch.manual_seed(7)
    labels = sorted({row["label"] for row in train})
    index = {label: at for at, label in enumerate(labels)}
    tokenizer = AutoTokenizer.from_pretrained(arguments.backbone)
    model = AutoModelForSequenceClassification.from_pretrained(arguments.backbone, num_labels=len(labels))
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=RANK, lora_alpha=2 * RANK, lora_dropout=0.1, target_modules=["query", "value"],
        layers_to_transform=LAYERS, layers_pattern="layer",
    )
    model = get_peft_model(model, config)

    def batches(rows):
        for at in range(0, len(rows), BATCH):
            part = rows[at:at + BATCH]
            texts = [row["text"] for row in part]
            yield part, tokenizer(texts, padding=True, truncation=True, max_length=LENGTH_MAX, return_tensors="pt")

    steps = epochs * -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(train)).tolist()
        for part, inputs in batches([train[at] for at in order]):
            loss = model(**inputs, labels=torch.tensor([index[row["label"]] for row in part])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()
    hits = 0
    with torch.no_grad():
        for part, inputs in batches(dev):
            best = model(**inputs).logits.argmax(-1).tolist()
            hits += sum(labels[at] == row["label"] for at, row in zip(best, part))
    return time.monotonic() - began, hits / len(dev)


def main():
    cache = pathlib.Path.home() / ".cache/trunkline/backbones/sentence-transformers--all-MiniLM-L6-v2"
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--backbone", type=pathlib.Path, default=cache, help="folder in Hugging Face layout (default: %(default)s)")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/trunkline")
    parser.add_argument("--epochs", type=int, default=2, help="of each run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side, alternating (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(arguments.threads), TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(arguments.threads)
    folder = arguments.data / "classify/banking77"
    train, dev = read(folder / "train.jsonl.gz"), read(folder / "dev.jsonl.gz")
    rows = arguments.epochs * len(train)
    results = {"trunkline": [], "PEFT": []}
    for _ in range(arguments.rounds):
        results["trunkline"].append(ours(arguments, folder, arguments.epochs))
        results["PEFT"].append(theirs(arguments, train, dev, arguments.epochs))
    medians = {}
    for side, runs in results.items():
        medians[side] = statistics.median(seconds for seconds, _ in runs)
        accuracy = statistics.median(accuracy for _, accuracy in runs)
        print(f"{side:10} {medians[side]:7.1f} s  {rows / medians[side]:7.0f} rows/s  accuracy {accuracy:.4f}  {arguments.epochs} epochs, {arguments.threads} threads")
    print(f"ratio      {medians['PEFT'] / medians['trunkline']:7.2f} x, end to end")


if __name__ == "__main__":
    main()
