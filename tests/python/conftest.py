"""The real server with the adapters that PEFT wrote, once for all tests."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "acceptance"))
from server import Server  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures" / "peft"
#: The backbone that their golden numbers are of.
PLAIN = ["--backbone", "sentence-transformers/all-MiniLM-L6-v2"]


@pytest.fixture(scope="session")
def binary():
    """Built by `cargo test` just before. `cargo build` would build it again: without the tests' features of its dependencies."""
    path = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "trunkline"
    if not path.exists():
        subprocess.run(["cargo", "test", "--locked", "--quiet", "--no-run"], cwd=ROOT, check=True)
    return path


@pytest.fixture(scope="session")
def golden():
    """Adapter name → what the reference library answers."""
    return {folder.name: json.loads((folder / "expected.json").read_text()) for folder in sorted(FIXTURES.iterdir())}


@pytest.fixture(scope="session")
def server(binary, golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    for name, expected in golden.items():
        command = [binary, "adapters", "import", name, FIXTURES / name, *PLAIN, "--adapters-dir", folder / "adapters", "--labels", ",".join(expected["labels"])]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    server = Server(binary, folder / "state", folder / "adapters", *PLAIN, "--threads", "2", "--precision", "f32", log=folder / "log").start()
    yield server
    assert server.stop() == 0, "SIGTERM drains and ends with exit code 0"
    assert "panicked" not in (folder / "log").read_text()
