"""Inputs as people have them, through the built program: folders that a trainer left, bodies that a client packed."""

import gzip
import io
import json
import subprocess
import tarfile
import urllib.request

import pytest
from conftest import FIXTURES, PLAIN, ROOT

FOLDER = FIXTURES / "cls-r8-qv"
SECONDS_MAX = 120

# What Trainer, its callbacks and the hub leave beside an adapter.
EXTRAS = {
    "plain": ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin", "tokenizer.json", "vocab.txt"],
    "fp16": ["scaler.pt"],
    "ddp": ["rng_state_0.pth", "rng_state_1.pth"],
    "labels": ["label2id.json", "chat_template.jinja", "added_tokens.json", "merges.txt"],
    "runs": ["runs/events.out.tfevents.1", ".cache/huggingface/download/x.lock"],
    "bin": ["adapter_model.bin"],
    "nested": ["checkpoint-500/adapter_config.json", "checkpoint-500/optimizer.pt"],
}


def packed(extras, change=None):
    """The adapter as `.tar` with files of these names beside it."""
    config = json.loads((FOLDER / "adapter_config.json").read_text()) | (change or {})
    files = {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": (FOLDER / "adapter_model.safetensors").read_bytes()}
    files |= dict.fromkeys(extras, b"{}")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def imported(binary, folder, archive):
    (folder / "a.tar").write_bytes(archive)
    command = [binary, "adapters", "import", "a", folder / "a.tar", *PLAIN, "--adapters-dir", folder / "adapters"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX)


def post(server, path, body, **headers):
    headers = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, headers)
    with urllib.request.urlopen(request, timeout=SECONDS_MAX) as answer:
        return json.load(answer)


@pytest.mark.parametrize("kind", EXTRAS)
def test_a_checkpoint_with_a_trainers_other_files_is_imported(binary, tmp_path, kind):
    done = imported(binary, tmp_path, packed(EXTRAS[kind]))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("base", "warns"),
    [("bert-base-cased", True), ("FacebookAI/roberta-base", True), ("sentence-transformers/all-MiniLM-L6-v2", False), ("/srv/models/bert-base-cased", True), ("/srv/models/mine", False)],
)
def test_another_base_model_is_warned_of(binary, tmp_path, base, warns):
    done = imported(binary, tmp_path, packed([], {"base_model_name_or_path": base}))
    assert done.returncode == 0, done.stderr
    assert ("base_model_name_or_path" in done.stderr) == warns, done.stderr


def test_a_long_text_is_embedded_up_to_the_backbones_own_limit(server):
    text = "the river ran past old walls " * 100
    answer = post(server, "/v1/embed", json.dumps({"inputs": ["short", text]}).encode())
    assert answer["truncated"] == [False, True]
    assert answer["usage"]["tokens"] == 3 + 256
    windows = post(server, "/v1/embed", json.dumps({"inputs": text, "parameters": {"long_text": "window"}}).encode())
    assert windows["truncated"] == [False] and windows["usage"]["tokens"] > 600


@pytest.mark.parametrize("path", ["/v1/ner", "/v1/ner/"])
def test_a_body_may_be_packed_and_begin_with_a_mark(server, path):
    body = json.dumps({"inputs": "Meet Anna in Oslo", "adapter": "ner-r8-qv"}).encode()
    plain = post(server, "/v1/ner", body)["results"]
    assert post(server, path, gzip.compress(body), content_encoding="gzip")["results"] == plain
    assert post(server, path, b"\xef\xbb\xbf" + body)["results"] == plain
