"""The alerting rules against their scenarios, by promtool; and what rules, runbook, dashboard and Kubernetes must say alike.

That every query has data on a live server is shown by `deploy/check_queries.py`, which takes minutes and a real Prometheus."""

import json
import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import promtool
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
SCENARIOS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "trunkline.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]

RULE_LIST = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULE_LIST if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in RULE_LIST if "record" in rule}


@pytest.fixture(scope="module")
def tool():
    """promtool. Who runs CI wants to know that it was missing; who runs the tests on a laptop goes on without."""
    try:
        return promtool.find()
    except promtool.Missing as missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"alerting rules are not tested: {missing}")


def test_the_rules_are_valid(tool):
    run = subprocess.run([tool, "check", "rules", "--lint=all", "--lint-fatal", RULES], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_in_each_scenario_exactly_the_wanted_alerts_fire(tool):
    def promtool_on(scenario):
        return subprocess.run([tool, "test", "rules", scenario], capture_output=True, text=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for scenario, run in zip(SCENARIOS, pool.map(promtool_on, SCENARIOS)):
            assert run.returncode == 0, f"{scenario.name}: {run.stdout}{run.stderr}"


def test_every_alert_has_a_scenario_in_which_it_fires_and_two_in_which_nothing_does():
    fires, quiet = set(), {}
    for scenario in SCENARIOS:
        checks = [check for test in yaml.safe_load(scenario.read_text())["tests"] for check in test["promql_expr_test"]]
        fires |= {name for check in checks for sample in check["exp_samples"] for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
        quiet[scenario.name] = sum(not check["exp_samples"] for check in checks)
    assert fires == set(ALERTS)
    assert all(count >= 2 for count in quiet.values()), quiet


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do(name):
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert "$labels.instance" in alert["annotations"]["summary"], "the summary names the server"
    url, anchor = alert["annotations"]["runbook_url"].split("#")
    assert url.endswith("/docs/runbook.md")
    assert anchor in re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text().lower(), re.MULTILINE)


def test_the_runbook_has_no_section_for_an_alert_that_is_gone():
    assert re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE) == list(ALERTS)


def test_recorded_series_are_called_level_metric_operations():
    for name in RECORDED:
        assert re.fullmatch(r"(instance(_\w+)?):trunkline_\w+:(increase|ratio)(\d+[mh])?", name), name


def test_namespace_and_instance_are_kept_by_every_sum():
    """`without` keeps them; `by` must name them. The namespace that has left discovery has no instance."""
    for rule in RULE_LIST:
        for labels in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
            kept = set(labels.split(", "))
            allowed = [{"namespace", "instance"}] + [{"namespace"}] * (rule.get("alert") == "TrunklineDown")
            assert any(wanted <= kept for wanted in allowed), f"{rule}: by ({labels})"


def test_no_two_panels_have_one_title():
    titles = [panel["title"] for panel in PANELS]
    assert sorted(set(titles)) == sorted(titles)


@pytest.mark.parametrize("title, query", QUERIES)
def test_a_query_follows_the_variables_and_the_zoom(title, query):
    selectors = re.findall(r"(?:up|ALERTS|process_\w+|[\w:]*trunkline_[\w:]+)\b(\{[^}]*\})?", query)
    assert selectors
    for selector in selectors:
        assert 'namespace=~"$namespace"' in selector and 'instance=~"$instance"' in selector, query
    windows = re.findall(r"\[([^\]]*)\]", re.sub(r"\{[^}]*\}", "", query))
    assert set(windows) <= {"$__rate_interval"}, query


def test_the_dashboard_asks_which_source_namespace_instance_and_adapter():
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "instance", "adapter"]
    assert any('adapter=~"$adapter"' in query for _, query in QUERIES)
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}" and panel["description"], panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_every_figure_of_the_first_row_turns_red_but_the_traffic():
    for panel in PANELS:
        if panel["type"] == "stat" and panel["title"] != "Requests a second":
            assert len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1, panel["title"]


def test_panels_do_not_overlap_and_none_hangs_over_the_edge():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_is_what_its_script_writes():
    run = subprocess.run([sys.executable, DEPLOY / "grafana" / "dashboard.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_every_metric_that_is_asked_for_is_registered_or_recorded():
    source = (ROOT / "src" / "telemetry" / "metrics.rs").read_text()
    registered = set(re.findall(r'"([a-z_]+)"', source))
    asked = [(title, query) for title, query in QUERIES] + [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULE_LIST]
    for where, query in asked:
        for name in re.findall(r"\b\w+:trunkline_[\w:]+", query):
            assert name in RECORDED, f"{where}: {name}"
        for name in re.findall(r"(?<![\w:.\]/])trunkline_(\w+)(?![\w:])", query):
            assert {name, re.sub(r"_(bucket|sum|count)$", "", name)} & registered, f"{where}: trunkline_{name}"


def test_kubernetes_gets_the_very_rules():
    printed = subprocess.run([DEPLOY / "kubernetes" / "monitoring" / "rule.sh", "models"], check=True, capture_output=True, text=True).stdout
    rule = yaml.safe_load(printed)
    assert (rule["kind"], rule["metadata"]["namespace"]) == ("PrometheusRule", "models")
    assert rule["spec"] == yaml.safe_load(RULES.read_text())


def test_what_monitors_looks_for_one_name():
    """The alerts ask for `up{job="trunkline"}`."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["trunkline"]
    monitor = yaml.safe_load((DEPLOY / "kubernetes" / "monitoring" / "service-monitor.yaml").read_text())
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "trunkline.yaml").read_text())
    labels = next(document["metadata"]["labels"] for document in documents if document["kind"] == "Service")
    assert labels[monitor["spec"]["jobLabel"]] == "trunkline"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_compose_file_pins_its_images_and_listens_on_loopback():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?$", services[name]["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"]), name
        for mount in services[name]["volumes"]:
            source = mount.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), mount
