#!/usr/bin/env python3
"""Runs the real Prometheus against a live server under load, and shows that every query of dashboard and rules returns data.

    apt-get install prometheus        # Debian's package; promtool comes with it
    cargo build --release
    deploy/check_queries.py [--seconds 45]

An alert's query is taken without its threshold: the question is whether it has data, not whether it fires.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "acceptance"))
from kill_and_resume import train_spec  # noqa: E402
from server import Failure, Server, default_binary  # noqa: E402
from wrong_adapter_never import FIXTURES, TEXTS, ask, upload  # noqa: E402


def queries():
    """(where, PromQL) of every panel and rule."""
    dashboard = json.loads((HERE / "grafana" / "dashboards" / "trunkline.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']!r}", target["expr"]
    rules = (HERE / "prometheus" / "rules.yml").read_text()
    for kind, name, expression in re.findall(r"- (record|alert): (\S+)\n\s+expr: (.+)", rules):
        yield f"{kind} {name}", re.sub(r"\s+[<>]=?\s+[^()]+$", "", expression) if kind == "alert" else expression


def prometheus(server, folder):
    text = (HERE / "prometheus" / "prometheus.yml").read_text()
    text = text.replace("trunkline:8080", f"127.0.0.1:{server.port}").replace("15s", "2s").replace("5s", "1s")
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(HERE / "prometheus" / "rules.yml", folder / "rules.yml")
    subprocess.run(["promtool", "check", "config", str(folder / "prometheus.yml")], check=True)
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def load(server, end):
    """Both families, several adapters, some refusals and bad requests, and a training job."""
    connection, i = server.connect(), 0
    while time.monotonic() < end:
        i += 1
        family, adapter = [("ner", "ner-a"), ("classify", "cls-a"), ("ner", "ner-b")][i % 3]
        try:
            ask(server, connection, family, adapter, TEXTS[i % len(TEXTS)])
            if i % 10 == 0:
                for action in ("unload", "load"):
                    server.call("POST", f"/v1/admin/adapters/ner-b/{action}", {})
                server.call("POST", "/v1/ner", {"inputs": TEXTS[0], "adapter": "nobody"})
        except (Failure, OSError):
            connection = server.connect()


def query(port, expression, began):
    """As a panel asks: over the time of the load, so that a job that is over by now is still seen."""
    parameters = {"query": expression, "start": began, "end": time.time(), "step": 2}
    url = f"http://127.0.0.1:{port}/api/v1/query_range?" + urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        return f"refused: {error.read().decode()[:200]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trunkline-prometheus-") as folder:
        folder = pathlib.Path(folder)
        server = Server(arguments.binary or default_binary(), folder / "state", folder / "adapters").start()
        process = None
        try:
            for name, source in (("ner-a", "ner-r8-qv"), ("ner-b", "ner-r16-all-last2"), ("cls-a", "cls-r8-qv")):
                upload(server, name, FIXTURES / source, 1.0)
            process, port = prometheus(server, folder)
            began = time.time()
            job = server.call("POST", "/v1/admin/jobs", train_spec(server))
            end = time.monotonic() + arguments.seconds
            threads = [threading.Thread(target=load, args=(server, end)) for _ in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            found = [(where, expression, query(port, expression, began)) for where, expression in queries()]
            print(f"job {server.call('GET', '/v1/admin/jobs/' + job['id'])['status']}")
        finally:
            if process:
                process.terminate()
                process.wait()
            server.stop()
    empty = [(where, expression, result) for where, expression, result in found if not result or isinstance(result, str)]
    for where, expression, result in empty:
        print(f"NO DATA {where}: {expression} {result or ''}")
    print(f"{len(found) - len(empty)} of {len(found)} queries return data")
    sys.exit(1 if empty or not found else 0)


if __name__ == "__main__":
    main()
