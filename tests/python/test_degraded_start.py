"""A start on a state disk that is full or cannot be written: inference answers, admin says why it does not."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
from conftest import ROOT
from test_disk_full import can_mount, namespace

START_SECONDS_MAX = 60

# What prepares the state folder's file system.
DISKS = {
    "full": "mount -t tmpfs -o size=64k tmpfs {state} && (cat /dev/zero > {state}/ballast || true)",
    "read-only": "mount -t tmpfs -o ro tmpfs {state}",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body).encode(), headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.mark.parametrize("disk", DISKS)
def test_a_state_disk_that_takes_nothing_costs_admin_alone(binary, golden, tmp_path, disk):
    if not shutil.which("unshare") or not can_mount():
        pytest.skip("no tmpfs can be mounted here: neither root nor user namespaces")
    state, adapters = tmp_path / "state", tmp_path / "adapters"
    state.mkdir()
    name, expected = next(item for item in golden.items() if item[0].startswith("cls"))
    command = [binary, "adapters", "import", name, ROOT / "tests/fixtures/peft" / name, "--adapters-dir", adapters, "--labels", ",".join(expected["labels"])]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    # The address file cannot be written either, so the port must be known.
    port = free_port()
    serve = [binary, "serve", "--listen", f"127.0.0.1:{port}", "--state-dir", state, "--adapters-dir", adapters, "--threads", "1"]
    script = DISKS[disk].format(state=state) + ' 2>/dev/null; exec "$@"'
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([*namespace(), "sh", "-c", script, "sh", *serve], cwd=ROOT, stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            try:
                if call(port, "GET", "/readyz")[0] == 200:
                    break
            except OSError:
                time.sleep(0.05)
        assert call(port, "POST", "/v1/classify", {"inputs": "hello", "adapter": name})[0] == 200
        for method, path, body in [
            ("GET", "/v1/admin/jobs", None),
            ("PUT", "/v1/admin/datasets/mail?family=classify&split=train", b"text,label\none,a\ntwo,b\n"),
            ("POST", "/v1/admin/backbone/activate", {"backbone": "default"}),
        ]:
            status, answer = call(port, method, path, body)
            assert status == 503 and json.loads(answer)["code"] == "unavailable", f"{method} {path}: {status} {answer}"
        metrics = call(port, "GET", "/metrics")[1]
        for part in ["backbones", "jobs", "state"]:
            assert f'trunkline_degraded{{part="{part}"}} 1' in metrics, part
        assert 'trunkline_degraded{part="aliases"} 0' in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    log = (tmp_path / "log").read_text()
    assert "out of order" in log and "panicked" not in log, log
