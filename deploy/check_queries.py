#!/usr/bin/env python3
"""Runs the real Prometheus against a live server under load: every query of dashboard and rules has data, no alert fires, and one does
once the server is gone. Before that promtool holds the rules against the scenarios of prometheus/tests.

    apt-get install --no-install-recommends prometheus    # Debian's package has promtool, too; or both from prometheus.io on the PATH
    cargo build --release
    deploy/check_queries.py [--seconds 45] [--binary target/debug/trunkline]

A rule is taken by its series: the question is whether they exist, not whether their sum is over a limit just now.
"""

import argparse
import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
RULES = HERE / "prometheus" / "rules.yml"
sys.path.insert(0, str(HERE.parent / "tests" / "acceptance"))
from kill_and_resume import train_spec  # noqa: E402
from server import Failure, Server, default_binary  # noqa: E402
from wrong_adapter_never import FIXTURES, TEXTS, ask, upload  # noqa: E402

SCRAPE_SECONDS = 1
# Without its server Prometheus notices at the next scrape and says so at the next evaluation.
NOTICE_SECONDS_MAX = 30
PROMETHEUS_START_SECONDS_MAX = 60

# On a machine that others use, or with a debug build, the server is slow, and the alert is right to say so.
MAY_BE_TRUE = {"TrunklineSlow"}

# What Grafana puts in, with everything chosen.
VARIABLES = {"$__rate_interval": f"{15 * SCRAPE_SECONDS}s", "$namespace": ".*", "$instance": ".*", "$adapter": ".*"}
# A metric with its selector and window, wherever it stands in an expression.
SERIES = re.compile(r"(?<![\w:\"|/.])((?:up|ALERTS|[a-z_]+:trunkline_[\w:]+|trunkline_\w+|process_\w+)(?:\{[^}]*\})?)")


def panels():
    """(where, PromQL) of every panel."""
    dashboard = json.loads((HERE / "grafana" / "dashboards" / "trunkline.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield f"panel {panel['title']!r}", expression


def series_of(expression):
    """The series that an expression names, each once."""
    return sorted(set(SERIES.findall(expression)))


def static_checks(folder):
    """promtool on the configuration, the rules and their scenarios."""
    subprocess.run(["promtool", "check", "config", str(folder / "prometheus.yml")], check=True)
    subprocess.run(["promtool", "test", "rules", *sorted(map(str, (HERE / "prometheus" / "tests").glob("*.yml")))], check=True)


def configure(server, folder):
    """Our own configuration, aimed at the server and faster."""
    text = (HERE / "prometheus" / "prometheus.yml").read_text()
    aimed = text.replace("trunkline:8080", f"127.0.0.1:{server.port}")
    if aimed == text:
        sys.exit("prometheus.yml names no target trunkline:8080")
    fast = re.sub(r"(scrape|evaluation)_interval: \d+s", rf"\1_interval: {SCRAPE_SECONDS}s", aimed)
    (folder / "prometheus.yml").write_text(fast)
    shutil.copy(RULES, folder / "rules.yml")


class Prometheus:
    """The real one, on a free port of 127.0.0.1, with a configuration and data in `folder`."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        flags = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{self.port}"]
        self.log = open(folder / "prometheus.log", "wb")
        self.process = subprocess.Popen(["prometheus", *flags], stdout=self.log, stderr=self.log)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def range(self, expression, began):
        """As a panel asks: over the time of the load, so that a job that is over by now is still seen. A string says why it is refused."""
        try:
            return self.get("query_range", query=expression, start=began, end=time.time(), step=2)["result"]
        except urllib.error.HTTPError as error:
            return f"refused: {error.read().decode()[:200]}"

    def wait(self, what, seconds_max, found):
        """What `found` returns once it is something."""
        end = time.monotonic() + seconds_max
        while time.monotonic() < end:
            if self.process.poll() is not None:
                sys.exit(f"prometheus ended: {pathlib.Path(self.log.name).read_text()[-2000:]}")
            with contextlib.suppress(OSError):
                if result := found():
                    return result
            time.sleep(0.2)
        sys.exit(f"no {what} within {seconds_max} s")


def load(server, end):
    """Both families, several adapters, bad requests, an adapter that comes and goes."""
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


def work(server, seconds):
    """Load from four sides, and a training job beside it."""
    job = server.call("POST", "/v1/admin/jobs", train_spec(server))
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=load, args=(server, end)) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(f"job {server.call('GET', '/v1/admin/jobs/' + job['id'])['status']}")


def faults_of_queries(prometheus, began):
    """What has no data, is refused, or is NaN all along."""
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    asked = list(panels())
    asked += [(f"{rule['type']} rule {rule['name']}", series) for rule in rules for series in series_of(rule["query"])]
    asked += [("recorded series", rule["name"]) for rule in rules if rule["type"] == "recording"]
    faults = [f"rule {rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
    for where, expression in asked:
        result = prometheus.range(expression, began)
        values = [] if isinstance(result, str) else [value for series in result for _, value in series["values"] if value != "NaN"]
        if not values:
            faults.append(f"no data: {where}: {expression} {result if isinstance(result, str) else ''}")
    print(f"{len(asked)} queries asked, {len(rules)} rules")
    return faults if asked and rules else ["no queries or no rules"]


def alerts(prometheus, *states):
    return [alert["labels"] for alert in prometheus.get("alerts")["alerts"] if alert["state"] in states]


def check(server, prometheus, seconds):
    began = time.time()
    prometheus.wait("scrape", PROMETHEUS_START_SECONDS_MAX, lambda: prometheus.get("query", query='up{job="trunkline"} == 1')["result"])
    work(server, seconds)
    faults = faults_of_queries(prometheus, began)
    faults += [f"fires, though all is well: {labels}" for labels in alerts(prometheus, "firing") if labels["alertname"] not in MAY_BE_TRUE]
    server.stop()
    instance = f"127.0.0.1:{server.port}"
    named = lambda: [labels for labels in alerts(prometheus, "pending", "firing") if labels["alertname"] == "TrunklineDown"]  # noqa: E731
    down = prometheus.wait("TrunklineDown after the server ended", NOTICE_SECONDS_MAX, named)
    wanted = [{"alertname": "TrunklineDown", "instance": instance, "severity": "critical"}]
    return faults if down == wanted else [*faults, f"TrunklineDown is {down}, not {wanted}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--binary", default=None)
    arguments = parser.parse_args()
    missing = [tool for tool in ("prometheus", "promtool") if not shutil.which(tool)]
    if missing:
        sys.exit(f"{' and '.join(missing)} not found: apt-get install --no-install-recommends prometheus")
    with tempfile.TemporaryDirectory(prefix="trunkline-prometheus-") as folder:
        folder = pathlib.Path(folder)
        server = Server(arguments.binary or default_binary(), folder / "state", folder / "adapters").start()
        prometheus = None
        try:
            for name, source in (("ner-a", "ner-r8-qv"), ("ner-b", "ner-r16-all-last2"), ("cls-a", "cls-r8-qv")):
                upload(server, name, FIXTURES / source, 1.0)
            configure(server, folder)
            static_checks(folder)
            prometheus = Prometheus(folder)
            faults = check(server, prometheus, arguments.seconds)
        finally:
            if prometheus:
                prometheus.stop()
            if server.process.poll() is None:
                server.stop()
    print("\n".join(faults) or "every query has data, and the alerts tell the truth")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
