"""Asks the Prometheus of the stack: metrics.py URL ROLE…

Asserts that it scrapes all roles and itself under the labels that alerts and dashboards use, that it evaluates every alert of
deploy/prometheus/alerts.yml, and that the panels of deploy/grafana/dashboards have data. The stack has had some traffic.
"""

import glob
import json
import re
import sys
import time
import urllib.parse
import urllib.request

# Metrics without a value in the traffic of the test: nothing is refused or late, the comparison in the background has not
# ended, and there are no WebSockets and no subscriptions to messages.
IDLE = {
    "counter_drift_rows",
    "gateway_hub_dialogs",
    "gateway_merged_frames_total",
    "gateway_rate_limited_total",
    "gateway_sockets",
    "gateway_subscriptions_ended_total",
}

url, *roles = sys.argv[1:]


def ask(path, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:
        body = json.load(answer)
    assert body["status"] == "success", body
    return body["data"]


def await_none(seconds, missing):
    """Waits until `missing` returns nothing, or fails with what it returns."""
    deadline = time.monotonic() + seconds
    while left := missing():
        assert time.monotonic() < deadline, f"missing after {seconds} s: {left}"
        time.sleep(0.5)


def instances():
    """Returns the labels of all targets that answered the last scrape."""
    up = ask("query", query="up == 1")["result"]
    return {(series["metric"]["job"], series["metric"]["instance"]) for series in up}


def alerts():
    """Returns all loaded alerts."""
    return [rule for group in ask("rules", type="alert")["groups"] for rule in group["rules"]]


def queries():
    """Returns the queries of all panels."""
    boards = [json.load(open(path)) for path in sorted(glob.glob("deploy/grafana/dashboards/*.json"))]
    targets = [target for board in boards for panel in board["panels"] for target in panel.get("targets", [])]
    return [target["expr"].replace("$__rate_interval", "1m") for target in targets]


expected = {("tidings", f"{role}:9090") for role in roles} | {("prometheus", "localhost:9090")}
await_none(60, lambda: expected ^ instances())
targets = ask("targets", state="active")["activeTargets"]
assert len(targets) == len(expected), targets

names = re.findall(r"^ *- alert: (\w+)$", open("deploy/prometheus/alerts.yml").read(), re.MULTILINE)
assert names and sorted(rule["name"] for rule in alerts()) == sorted(names), alerts()
await_none(60, lambda: [rule for rule in alerts() if rule["health"] != "ok"])

panels = queries()
busy = [query for query in panels if not any(metric in query for metric in IDLE)]
assert busy
await_none(60, lambda: [query for query in busy if not ask("query", query=query)["result"]])
for query in panels:
    ask("query", query=query)
print(f"{len(targets)} targets, {len(names)} alerts, {len(panels)} queries of panels, {len(busy)} of them must have data")
