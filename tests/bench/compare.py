#!/usr/bin/env python3
"""The encoder's forward pass against what users would run instead, in one run whose sides take turns.

    python3 -m venv VENV && VENV/bin/pip install -r tests/bench/compare_requirements.txt
    VENV/bin/python tests/bench/compare.py [--quick] [--kernel NAME]... [--json FILE]

The sides: trunkline with each kernel asked for (default: this machine's fastest, and its fastest in f32); PyTorch in f32 and
bf16, compiled too; ONNX Runtime in f32 and with dynamic int8 weights (one scale a tensor as most users have it, and one a
column), its graph fused for BERT first. Token ids in, hidden states of the last layer out: no tokenization, no padding, no
head. With two threads a peer may split each product over both ("split") or run two passes side by side ("streams", as our
engine does); its better way counts.

Each peer is a process of its own; in each round every side makes a few passes while all others wait. Printed: the median time
of a batch, sequences/s, and the median over rounds of our time / theirs, which cancels a machine that changes its clock. The
cosine of each side's hidden states to PyTorch's in f32 says what a side's speed costs.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("TRUNKLINE_BACKBONE_CACHE", pathlib.Path.home() / ".cache/trunkline"))
BACKBONE = CACHE / "backbones/sentence-transformers--all-MiniLM-L6-v2"
SHAPES = [(32, 32), (32, 128), (1, 32)]
PEERS = ["torch-f32", "torch-bf16", "torch-bf16-compiled", "onnx-f32", "onnx-int8", "onnx-int8-channels"]
# A side makes so many passes in a round that they take about this long.
SECONDS_A_TURN = 0.15
CLOSE = 0.999  # cosine: a side below it computes something else


class Worker:
    """A process that answers lines: `BATCH LENGTH THREADS PASSES` with seconds a pass, `hidden …` with a file."""

    def __init__(self, command, env=None):
        self.process = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.ready = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with {self.process.wait()}")
        return line.strip()

    def send(self, request):
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()

    def ask(self, request):
        self.send(request)
        return self.read()

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


class Side:
    """Seconds a batch of one way of computing."""

    def __init__(self, name, workers, threads):
        self.name, self.workers, self.threads = name, workers, threads
        self.passes = {}

    def batch(self, shape):
        """Every worker makes passes at once; a batch takes as long as the slowest's, divided by how many ran."""
        batch, length = shape
        passes = self.passes.get(shape, 1)
        for worker in self.workers:
            worker.send(f"{batch} {length} {self.threads} {passes}")
        seconds = max(float(worker.read()) for worker in self.workers)
        streams = self.threads if self.name.startswith("trunkline") else len(self.workers)
        self.passes[shape] = max(1, round(SECONDS_A_TURN / seconds))
        return seconds / streams


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, one thread only")
    parser.add_argument("--kernel", action="append", help="of trunkline; may be given several times")
    parser.add_argument("--json", help="a file for all times")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return serve(arguments.peer, arguments.threads, pathlib.Path(arguments.folder))
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, pathlib.Path(folder))


def compare(arguments, folder):
    bench = built()
    kernels = arguments.kernel or default_kernels()
    if not BACKBONE.exists():
        Worker([bench, "--worker", "--kernel", kernels[0]]).stop()  # fetches it
    export(folder)
    print(f"{machine()}; hidden states from token ids: no tokenization, no heads, no padding")
    ours = {kernel: Worker([bench, "--worker", "--kernel", kernel]) for kernel in kernels}
    alone = {name: [peer(name, 1, folder)] for name in PEERS}
    cosines = agreement(ours, alone, folder)
    rounds = 5 if arguments.quick else 11
    report = {"machine": machine(), "cosine": cosines, "rows": []}
    for threads in [1] if arguments.quick or os.cpu_count() < 2 else [1, 2]:
        sides = [Side(f"trunkline {kernel}", [worker], threads) for kernel, worker in ours.items()]
        if threads == 1:
            sides += [Side(name, workers, 1) for name, workers in alone.items()]
        else:
            sides += [Side(f"{name} split", [peer(name, threads, folder)], threads) for name in PEERS]
            sides += [Side(f"{name} streams", alone[name] + [peer(name, 1, folder)], 1) for name in PEERS]
        for shape in SHAPES:
            report["rows"] += measure(sides, shape, threads, rounds, cosines)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(sides, shape, threads, rounds, cosines):
    """Rounds of turns; the first two warm up and find how many passes fill a turn."""
    times = {side.name: [] for side in sides}
    for turn in range(rounds + 2):
        for side in sides:
            seconds = side.batch(shape)
            if turn >= 2:
                times[side.name].append(seconds)
    first = times[sides[0].name]
    print(f"\n{shape[0]} x {shape[1]}, {threads} thread{'s' * (threads > 1)}")
    print(f"{'':34}{'ms a batch':>12}{'sequences/s':>13}{'ours/theirs':>13}")
    rows = []
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ratio = statistics.median(mine / other for mine, other in zip(first, seconds))
        print(f"  {name:32}{1e3 * median:12.3f}{shape[0] / median:13.1f}{ratio:13.3f}", flush=True)
        cosine = cosines[next(key for key in cosines if name == key or name.startswith(f"{key} "))]
        rows.append({"shape": shape, "threads": threads, "side": name, "seconds": seconds, "ratio": ratio, "cosine": cosine})
    peers = [row for row in rows if not row["side"].startswith("trunkline")]
    for title, among in [("all peers", peers), (f"cosine >= {CLOSE}", [row for row in peers if row["cosine"] >= CLOSE])]:
        best = max(among, key=lambda row: row["ratio"])
        print(f"  best of {title}: {best['side']}; we are {1 / best['ratio']:.2f} times as fast")
    return rows


def agreement(ours, alone, folder):
    """Mean cosine of each side's hidden states to PyTorch's in f32, over 512 tokens of real text."""
    import numpy as np
    from transformers import AutoTokenizer

    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(BACKBONE)(text, truncation=True, max_length=512)["input_ids"]
    np.array(ids, dtype="<u4").tofile(folder / "ids")
    workers = {f"trunkline {kernel}": worker for kernel, worker in ours.items()} | {k: v[0] for k, v in alone.items()}
    states = {}
    for name, worker in workers.items():
        worker.ask(f"hidden 64 {folder / 'ids'} {folder / 'out'}")
        states[name] = np.fromfile(folder / "out", dtype="<f4").reshape(len(ids), -1)
    wanted = states["torch-f32"]
    print("\ncosine of hidden states to PyTorch f32, mean and worst of 512 tokens of text:")
    cosines = {}
    for name, got in states.items():
        cosine = (got * wanted).sum(-1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(wanted, axis=-1)
        cosines[name] = float(cosine.mean())
        print(f"  {name:28} {cosine.mean():.5f} {cosine.min():.5f}")
    return cosines


def peer(name, threads, folder):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    command = [sys.executable, __file__, "--peer", name, "--threads", threads, "--folder", folder]
    return Worker(command, env)


def serve(name, threads, folder):
    """The peer's process."""
    import numpy as np

    forward = (torch_forward if name.startswith("torch") else onnx_forward)(name, threads, folder)
    text = np.fromfile(folder / "tokens", dtype="<u4").astype("int64")
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("hidden"):
            _, length, source, out = line.split()
            ids = np.fromfile(source, dtype="<u4").astype("int64").reshape(-1, int(length))
            forward(ids).astype("<f4").tofile(out)
            print("ok", flush=True)
            continue
        batch, length, _, passes = map(int, line.split())
        ids = np.resize(text, (batch, length))
        forward(ids)
        began = time.perf_counter()
        for _ in range(passes):
            forward(ids)
        print((time.perf_counter() - began) / passes, flush=True)


def torch_forward(name, threads, _folder):
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.AutoModel.from_pretrained(BACKBONE, attn_implementation="sdpa").eval()
    model = model.to(torch.bfloat16 if "bf16" in name else torch.float32)
    run = torch.compile(model, dynamic=False) if "compiled" in name else model

    def forward(ids):
        with torch.inference_mode():
            return run(input_ids=torch.from_numpy(ids)).last_hidden_state.float().numpy()

    return forward


def onnx_forward(name, threads, folder):
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])

    def forward(ids):
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        return session.run(None, inputs)[0]

    return forward


def export(folder):
    """ONNX files of the backbone, as ONNX Runtime's own optimizer and quantizer make them, and tokens for all."""
    code = f"""
import sys, numpy, torch, transformers
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
folder, backbone, text = sys.argv[1:]
ids = transformers.AutoTokenizer.from_pretrained(backbone)(open(text).read(), truncation=True, max_length=512)["input_ids"]
numpy.array(ids, dtype="<u4").tofile(folder + "/tokens")
model = transformers.AutoModel.from_pretrained(backbone, attn_implementation="eager").eval()
names = ["input_ids", "attention_mask", "token_type_ids"]
class Hidden(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, *inputs):
        return self.model(**dict(zip(names, inputs))).last_hidden_state
torch.onnx.export(Hidden(), tuple(torch.ones(2, 8, dtype=torch.int64) for _ in names), folder + "/plain.onnx", input_names=names,
    output_names=["hidden"], dynamic_axes={{name: {{0: "batch", 1: "tokens"}} for name in [*names, "hidden"]}}, dynamo=False)
fused = optimizer.optimize_model(folder + "/plain.onnx", model_type="bert", num_heads=model.config.num_attention_heads,
    hidden_size=model.config.hidden_size, opt_level=0)
fused.save_model_to_file(folder + "/onnx-f32.onnx")
for name, by_channel in [("onnx-int8", False), ("onnx-int8-channels", True)]:
    quantize_dynamic(folder + "/onnx-f32.onnx", folder + "/" + name + ".onnx", weight_type=QuantType.QInt8,
        per_channel=by_channel, extra_options={{"DefaultTensorType": 1}})
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder), str(BACKBONE), str(ROOT / "LICENSE")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        sys.exit(f"the ONNX files cannot be made:\n{made.stderr}")


def built():
    """The bench's program, built if need be; its path comes from cargo's messages."""
    command = ["cargo", "bench", "--bench", "encoder", "--no-run", "--message-format=json"]
    messages = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    programs = [m["executable"] for m in map(json.loads, messages) if m.get("target", {}).get("name") == "encoder"]
    return next(program for program in programs if program)


def default_kernels():
    flags = set(cpu_line("flags").split())
    fast = [name for flag, name in [("amx_bf16", "amx-bf16"), ("avx512_bf16", "avx512-bf16")] if flag in flags]
    plain = [name for flag, name in [("avx512f", "avx512-f32"), ("avx2", "avx2-f32")] if flag in flags]
    return fast[:1] + (plain[:1] or ["portable-f32"])


def machine():
    flags = [flag for flag in cpu_line("flags").split() if flag.startswith(("amx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16"))]
    return f"{cpu_line('model name')}, {os.cpu_count()} cores, {' '.join(flags)}"


def cpu_line(key):
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


if __name__ == "__main__":
    main()
