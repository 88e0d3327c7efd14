"""A full disk: a clear error, nothing half written, and all is well when there is room again."""

import json
import os
import shutil
import subprocess

import pytest
from server import Failure, Server

SIZE = "3m"


def can_mount():
    """A tmpfs of a few MiB wants root, or a user namespace that lets us be it."""
    return subprocess.run([*namespace(), "true"], capture_output=True).returncode == 0


def namespace():
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


class TinyDisk(Server):
    """A server whose state and adapters live on a tmpfs that only its own mount namespace sees."""

    def __init__(self, binary, folder):
        disk = folder / "disk"
        disk.mkdir()
        super().__init__(binary, disk / "state", disk / "adapters", "--threads", "1", log=folder / "log")
        mount = f"mount -t tmpfs -o size={SIZE} tmpfs {disk} && mkdir -p {disk}/state && exec \"$@\""
        self.command = [*namespace(), "sh", "-c", mount, "sh", *self.command]
        self.disk = disk

    def inside(self, path):
        return f"/proc/{self.process.pid}/root{path}"


@pytest.fixture
def tiny(binary, tmp_path, monkeypatch):
    if not shutil.which("unshare") or not can_mount():
        pytest.skip("no tmpfs can be mounted here: neither root nor user namespaces")
    server = TinyDisk(binary, tmp_path)
    # The address file is on the tmpfs as well: read it through the server's own root.
    monkeypatch.setattr(server, "start", lambda: start(server))
    yield server.start()
    server.process.kill()
    server.process.wait()


def start(server):
    import pathlib
    import time
    server.process = subprocess.Popen(server.command, cwd=pathlib.Path(__file__).parents[2], stdout=open(server.log, "ab"), stderr=subprocess.STDOUT)
    for _ in range(1500):
        try:
            server.port = int(open(server.inside(server.state / "listen")).read().strip().rsplit(":", 1)[1])
            server.call("GET", "/readyz")
            return server
        except (OSError, ValueError, Failure):
            assert server.process.poll() is None, open(server.log).read()
            time.sleep(0.02)
    raise AssertionError("not ready within 30 s")


def rows(count):
    return "".join(json.dumps({"text": f"row {i} " + "word " * 40, "label": "ab"[i % 2]}) + "\n" for i in range(count)).encode()


def test_a_full_disk_is_said_and_nothing_is_lost(tiny):
    tiny.call("PUT", "/v1/admin/datasets/small?family=classify&split=train", rows(20))
    with open(tiny.inside(tiny.disk / "ballast"), "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"\0" * 4096)
        except OSError:
            pass
    with pytest.raises(Failure) as failure:
        tiny.call("PUT", "/v1/admin/datasets/big?family=classify&split=train", rows(3000))
    assert failure.value.status == 503 and "no space left" in failure.value.problem.lower(), failure.value
    assert [d["name"] for d in tiny.call("GET", "/v1/admin/datasets")["data"]] == ["small"]
    os.remove(tiny.inside(tiny.disk / "ballast"))
    assert tiny.call("PUT", "/v1/admin/datasets/big?family=classify&split=train", rows(3000))["rows"] == 3000
