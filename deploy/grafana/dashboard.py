#!/usr/bin/env python3
"""Writes dashboards/trunkline.json: the panels stand here as a table, the JSON is what Grafana reads.

    deploy/grafana/dashboard.py            # writes the file
    deploy/grafana/dashboard.py --check    # exit code 1 if the file is not what this writes

Every query is narrowed to the chosen namespaces and instances, every rate is over `$__rate_interval`, no two panels have one title.
"""

import json
import pathlib
import sys

FILE = pathlib.Path(__file__).resolve().parent / "dashboards" / "trunkline.json"

WHERE = 'namespace=~"$namespace",instance=~"$instance"'
PROCESS = 'job="trunkline",' + WHERE
ADAPTER = 'adapter=~"$adapter",' + WHERE
ANSWERS = 'route!~"/v1/admin/.*|.*[.]Admin/.*",' + WHERE
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
NAMED = 'adapter!="",' + ADAPTER
COLUMNS = 24

# The steps at which a value turns yellow and red; the alerts of ../prometheus/rules.yml stand at the red ones.
FAILING, REFUSED, SLOW, FULL, BURN = (0.001, 0.0144), (0.01, 0.05), (0.5, 1.024), (0.5, 0.8), (6, 14.4)


def rate(metric, where=WHERE):
    return f"rate({metric}{{{where}}}[$__rate_interval])"


def recorded(name):
    return f"{name}:increase5m{{{WHERE}}}"


def share(part, whole):
    """Nothing, where there is nothing to share."""
    return f"sum({part}) / (sum({whole}) > 0)"


def quantile(q, metric, by="le", where=WHERE):
    return f"histogram_quantile({q}, sum by ({by}) ({rate(metric + '_bucket', where)}))"


def mean(metric):
    return share(rate(metric + "_sum"), rate(metric + "_count"))


def steps(limits, first="green"):
    colors = {"green": ["green", "yellow", "red"], "red": ["red", "green"]}[first]
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in zip(colors, [None, *limits])]}


def panel(kind, title, about, unit, *targets, limits=None, good_from=None, width=None, decimals=None):
    """A panel; a target is (query, legend). `limits` are a yellow and a red step, `good_from` the least value that is green."""
    defaults = {"unit": unit, "color": {"mode": "thresholds" if kind == "stat" else "palette-classic"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    defaults["thresholds"] = steps([good_from], "red") if good_from is not None else steps(limits or [])
    if kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 8, "showPoints": "never", "thresholdsStyle": {"mode": "line" if limits else "off"}}
        defaults["min"] = 0
    options = {
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"},
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "table": {"showHeader": True},
    }[kind]
    made = {"type": kind, "title": title, "description": about, "datasource": SOURCE, "options": options, "width": width}
    made["fieldConfig"] = {"defaults": defaults, "overrides": []}
    instant = {"instant": True, "format": "table"} if kind == "table" else {}
    made["targets"] = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend, **instant}
        for at, (query, legend) in enumerate(targets)
    ]
    if kind == "table":
        hidden = {name: True for name in ("Time", "Value", "Value #A", "Value #B", "__name__", "job")}
        made["transformations"] = [{"id": "merge", "options": {}}, {"id": "organize", "options": {"excludeByName": hidden}}]
    return made


def stat(*arguments, **more):
    return panel("stat", *arguments, **more)


def graph(*arguments, **more):
    return panel("timeseries", *arguments, **more)


def table(*arguments, **more):
    return panel("table", *arguments, **more)


REQUESTS, DURATION = "trunkline_requests_total", "trunkline_request_duration_seconds"

# (title, panels a line, panels)
ROWS = [
    ("Now", 6, [
        stat("Servers that answer", "Ready servers of those that Prometheus looks for.", "percentunit",
             (f"sum(trunkline_ready{{{WHERE}}}) / count(up{{{PROCESS}}})", "ready"), good_from=1),
        stat("Firing alerts", "Alerts of deploy/prometheus/rules.yml; the list of Prometheus says which.", "short",
             (f'count(ALERTS{{alertname=~"Trunkline.*",alertstate="firing",{WHERE}}}) or vector(0)', "firing"), limits=(1, 2)),
        stat("Requests a second", "Everything that was answered, health and metrics included.", "reqps", (f"sum({rate(REQUESTS)})", "requests")),
        stat("Failing requests", "In 5 minutes, through no fault of their callers, as the alerts count: without admin calls and probes.", "percentunit",
             (share(recorded("instance:trunkline_request_failures"), recorded("instance_code:trunkline_requests")), "share"), limits=FAILING, decimals=2),
        stat("Refused requests", "In 5 minutes, before any work, as the alerts count: without those that are too large.", "percentunit",
             (share(recorded("instance:trunkline_rejected"), recorded("instance_code:trunkline_requests")), "share"), limits=REFUSED, decimals=2),
        stat("p99 latency", "Requests for answers; streams and uploads are not timed.", "s", (quantile(0.99, DURATION, where=ANSWERS), "p99"), limits=SLOW),
    ]),
    ("Traffic and errors", 4, [
        graph("Requests by route", "Answers a second.", "reqps", (f"sum by (route) ({rate(REQUESTS)})", "{{route}}")),
        graph("Answers by code", "ok, or the code of the error.", "reqps", (f"sum by (code) ({rate(REQUESTS)})", "{{code}}")),
        graph("Refused and expired", "Refused before any work, by reason; given up, by where the request was then.", "reqps",
              (f"sum by (reason) ({rate('trunkline_rejected_total')})", "refused: {{reason}}"),
              (f"sum by (stage) ({rate('trunkline_expired_total')})", "expired: {{stage}}")),
        graph("Error budget burn rate", "How many times faster than allowed (0.1 %) requests failed in the last hour. TrunklineErrors stands at 14.4.", "short",
              (f"instance:trunkline_request_failures:ratio1h{{{WHERE}}} / 0.001", "{{namespace}} {{instance}}"), limits=BURN),
    ]),
    ("Latency", 4, [
        graph("Request latency", "From the first byte to the answer.", "s",
              *((quantile(q, DURATION, where=ANSWERS), name) for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))), limits=SLOW),
        graph("p95 by phase", "Where the time of a request goes.", "s", (quantile(0.95, "trunkline_phase_duration_seconds", "le, phase"), "{{phase}}")),
        graph("p99 by route", "Streams and uploads are not timed.", "s", (quantile(0.99, DURATION, "le, route"), "{{route}}"), limits=SLOW),
        graph("Requests slower than a second", "Of the last hour; one in a hundred may be. TrunklineSlow stands at 14.4 in a hundred.", "percentunit",
              (f"instance:trunkline_slow_requests:ratio1h{{{WHERE}}}", "{{namespace}} {{instance}}"), limits=(0.01, 0.144)),
    ]),
    ("Batches and queue", 4, [
        graph("Tokens computed a second", "What the forward passes take, and what shared lower layers save.", "short",
              (f"sum({rate('trunkline_batch_tokens_sum')})", "computed"), (f"sum({rate('trunkline_prefix_tokens_saved_total')})", "saved by shared prefixes")),
        graph("Mean batch", "Of a forward pass. Small batches under load mean that requests come too thinly.", "short",
              *((mean(f"trunkline_batch_{what}"), what) for what in ("tokens", "sequences", "adapters"))),
        graph("Queue, tokens", "Tokens admitted and not yet answered: the ten adapters with most of them, and the least limit of a server.", "short",
              (f"topk(10, sum by (adapter) (trunkline_queue_tokens{{{ADAPTER}}}))", "{{adapter}}"), (f"min(trunkline_queue_limit_tokens{{{WHERE}}})", "limit of a server")),
        graph("Queue fill by server", "Of its own limit. TrunklineQueueNearlyFull stands at 80 %.", "percentunit",
              (f"instance:trunkline_queue_tokens:ratio{{{WHERE}}}", "{{namespace}} {{instance}}"), limits=FULL),
    ]),
    ("Adapters", 4, [
        graph("Requests by adapter", "The ten that are asked most.", "reqps",
              (f"topk(10, sum by (adapter) ({rate(REQUESTS, NAMED)}))", "{{adapter}}")),
        graph("Failing requests by adapter", "Through no fault of their callers, in 15 minutes. TrunklineAdapterFails stands at 10 %.", "percentunit",
              (f"topk(10, instance_adapter:trunkline_request_failures:ratio15m{{{ADAPTER}}})", "{{adapter}} on {{instance}}"), limits=(0.01, 0.1)),
        graph("Resident adapters", "Versions in memory.", "short", (f"trunkline_adapters_resident{{{WHERE}}}", "{{namespace}} {{instance}}")),
        graph("Memory of adapters", "Of resident versions.", "bytes", (f"trunkline_adapter_bytes{{{WHERE}}}", "{{namespace}} {{instance}}")),
        graph("Loads and evictions", "Loads of adapters by outcome, and adapters that made room.", "ops",
              (f"sum by (outcome) ({rate('trunkline_adapter_loads_total', ADAPTER)})", "load: {{outcome}}"), (f"sum({rate('trunkline_adapter_evictions_total')})", "evictions")),
        graph("Load time p95", "To make an adapter resident.", "s", (quantile(0.95, "trunkline_adapter_load_seconds"), "p95")),
        graph("Entities found", "The ten types found most.", "short", (f"topk(10, sum by (label) ({rate('trunkline_entities_total', ADAPTER)}))", "{{label}}")),
        graph("Labels given", "The ten labels given most.", "short",
              (f"topk(10, sum by (adapter, label) ({rate('trunkline_predictions_total', ADAPTER)}))", "{{adapter}}: {{label}}")),
        table("Active versions", "The version that answers for each adapter.", "short", (f"trunkline_adapter_info{{{ADAPTER}}}", ""), width=16),
        graph("Idle time", "Since the adapter's last request.", "s",
              (f"time() - max by (adapter) (trunkline_adapter_last_used_timestamp_seconds{{{ADAPTER}}} > 0)", "{{adapter}}"), width=8),
    ]),
    ("Training jobs", 3, [
        graph("Jobs by status", "In the journal, which forgets the oldest finished ones.", "short", (f"sum by (status) (trunkline_jobs{{{WHERE}}})", "{{status}}")),
        graph("Jobs finished", "Since the servers began.", "short", (f"sum by (status) (trunkline_jobs_finished_total{{{WHERE}}})", "{{status}}")),
        graph("Training loss", "Of running jobs.", "short", (f"trunkline_job_loss{{{WHERE}}}", "{{job_id}}")),
        graph("Training steps", "Optimizer steps done by running jobs.", "short", (f"trunkline_job_step{{{WHERE}}}", "{{job_id}}"), width=12),
        graph("Training tokens a second", "Of running jobs.", "short", (f"trunkline_job_tokens_per_second{{{WHERE}}}", "{{job_id}}"), width=12),
    ]),
    ("Process", 4, [
        graph("CPU", "Cores in use.", "short", (rate("process_cpu_seconds_total", PROCESS), "{{namespace}} {{instance}}")),
        graph("Process memory", "Resident set.", "bytes", (f"process_resident_memory_bytes{{{PROCESS}}}", "{{namespace}} {{instance}}")),
        graph("Open files and threads", "Each connection is an open file.", "short",
              (f"process_open_fds{{{PROCESS}}}", "files: {{instance}}"), (f"process_threads{{{PROCESS}}}", "threads: {{instance}}")),
        graph("Uptime", "Since the process began.", "s", (f"time() - process_start_time_seconds{{{PROCESS}}}", "{{namespace}} {{instance}}")),
        table("Build and backbone", "What runs where.", "short", (f"trunkline_build_info{{{WHERE}}}", ""), (f"trunkline_backbone_info{{{WHERE}}}", ""), width=24),
    ]),
]


def variable(name, label, metric):
    """A choice of label values, of many or all. A series without the label counts among all."""
    query = {"query": f"label_values({metric}, {name})", "refId": name}
    made = {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": query, "definition": query["query"]}
    return made | {"refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}


VARIABLES = [
    {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
    variable("namespace", "Namespace", "trunkline_ready"),
    variable("instance", "Instance", 'trunkline_ready{namespace=~"$namespace"}'),
    variable("adapter", "Adapter", f"trunkline_adapter_info{{{WHERE}}}"),
]


def laid_out():
    """Panels of each row, left to right, wrapped at the edge."""
    top, number = 0, 0
    for title, per_line, panels in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top}}
        top, left = top + 1, 0
        height = 4 if panels[0]["type"] == "stat" else 8
        for panel in panels:
            width = panel["width"] or COLUMNS // per_line
            if left + width > COLUMNS:
                top, left = top + height, 0
            number += 1
            body = {key: value for key, value in panel.items() if key != "width"}
            yield {"id": number, **body, "gridPos": {"h": height, "w": width, "x": left, "y": top}}
            left += width
        top += height


def dashboard():
    return {
        "uid": "trunkline", "title": "trunkline", "tags": ["trunkline"], "schemaVersion": 41, "version": 1, "editable": True, "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"}, "timezone": "browser", "graphTooltip": 1,
        "templating": {"list": VARIABLES}, "annotations": {"list": []}, "panels": list(laid_out()),
    }


def main():
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if FILE.read_text() == text else f"{FILE} is not what {pathlib.Path(__file__).name} writes: run it")
    FILE.write_text(text)


if __name__ == "__main__":
    main()
