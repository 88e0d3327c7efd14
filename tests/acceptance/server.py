"""A trunkline server started for a check, and the few calls the checks make. Standard library alone."""

import contextlib
import http.client
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 120


class Failure(Exception):
    """An answer other than the wanted one."""

    def __init__(self, status, problem):
        super().__init__(f"{status}: {problem}")
        self.status, self.problem = status, problem


def archive(folder):
    """The folder as a `.tar`, to be uploaded."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return out.getvalue()


def active_version(adapter):
    """Of an adapter's folder in a store, the folder of the version that answers."""
    return adapter / "versions" / (adapter / "current").read_text().strip()


def restored(binary, *flags):
    """The folder of the backbone that the flags name (the default one without), fetched or restored into the cache if it is not there."""
    line = subprocess.run([str(binary), "backbone", "fetch", *flags], check=True, capture_output=True, text=True).stdout
    return pathlib.Path(line.split(" bytes ", 1)[1].strip())


class Server:
    """`trunkline serve` on a free port of 127.0.0.1. `state` and `adapters` are folders; flags are added as they are."""

    def __init__(self, binary, state, adapters, *flags, log=None):
        self.state = pathlib.Path(state)
        self.command = [str(binary), "serve", "--listen", "127.0.0.1:0", "--state-dir", str(state), "--adapters-dir", str(adapters), *flags]
        self.log = log
        self.process = None
        self.port = None

    def start(self):
        listen = self.state / "listen"
        listen.unlink(missing_ok=True)
        self.state.mkdir(parents=True, exist_ok=True)
        out = open(self.log, "ab") if self.log else subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=out, stderr=out)
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with exit code {self.process.returncode}: {' '.join(self.command)}")
            if listen.exists():
                self.port = int(listen.read_text().strip().rsplit(":", 1)[1])
                with contextlib.suppress(OSError, Failure):
                    self.call("GET", "/readyz")
                    return self
            time.sleep(0.02)
        raise SystemExit(f"the server was not ready within {START_SECONDS_MAX} s")

    def kill(self):
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def call(self, method, path, body=None, headers=None, connection=None):
        """JSON in, JSON out; `Failure` for any status but 2xx."""
        payload, headers = body, dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            payload = json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        own = connection or self.connect()
        try:
            own.request(method, path, payload, headers)
            response = own.getresponse()
            data = response.read()
        finally:
            if connection is None:
                own.close()
        if response.status // 100 != 2:
            raise Failure(response.status, data.decode(errors="replace"))
        kind = response.headers.get("content-type", "")
        return json.loads(data) if "json" in kind else data

    def upload(self, dataset, family, split, path):
        query = urllib.parse.urlencode({"family": family, "split": split})
        return self.call("PUT", f"/v1/admin/datasets/{dataset}?{query}", pathlib.Path(path).read_bytes())

    def events(self, job, after=0):
        """The job's event stream, until it ends with the job."""
        connection = self.connect(timeout=600)
        connection.request("GET", f"/v1/admin/jobs/{job}/events?after={after}", headers={"accept": "text/event-stream"})
        response = connection.getresponse()
        if response.status != 200:
            raise Failure(response.status, response.read().decode())
        for raw in response:
            line = raw.decode().rstrip("\n")
            if line.startswith("data:"):
                yield json.loads(line[5:])
        connection.close()


@contextlib.contextmanager
def serving(binary, *flags, adapters=None, state=None, log=None):
    """A server with fresh folders (or the given ones), stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        folder = pathlib.Path(folder)
        server = Server(binary, state or folder / "state", adapters or folder / "adapters", *flags, log=log or os.environ.get("TRUNKLINE_CHECK_LOG"))
        server.start()
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.stop()


def default_binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for profile in ("release", "debug"):
        if (target / profile / "trunkline").exists():
            return target / profile / "trunkline"
    sys.exit("no built binary: cargo build --release")
