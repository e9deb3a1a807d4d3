"""Asks a Prometheus every query of dashboards, and its own alerts: ask.py URL DASHBOARD…

Exits with 1 and one line for each query without data, each alert that fails or fires, and each metric of an alert that
does not exist. A query has 45 s to return data: the counter ends its first comparison a minute after its start.
"""

import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

PATIENCE_SECONDS = 45
# Values of Grafana's own variables, for a range of an hour.
BUILT_IN = {"__rate_interval": "1m", "__interval": "15s", "__range": "1h"}

prometheus, *paths = sys.argv[1:]
deadline = time.monotonic() + PATIENCE_SECONDS


def get(path, **parameters):
    """Returns the data of an answer, or raises ValueError with the error that Prometheus names."""
    address = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error).get("error", str(error))) from error


def problem(query):
    """Asks until there is data. Returns the reason why there is none, or None."""
    while True:
        try:
            result = get("query", query=query)
        except ValueError as error:
            return str(error)
        samples = result["result"] if result["resultType"] == "vector" else [{"value": result["result"]}]
        if any(not math.isnan(float(sample["value"][1])) for sample in samples):
            return None
        if time.monotonic() > deadline:
            return "only values that are not numbers" if samples else "no data"
        time.sleep(1)


def variables(board):
    """Returns the values of a dashboard's variables: all values of a query, as Grafana joins them."""
    values = dict(BUILT_IN)
    for variable in board["templating"]["list"]:
        query = variable["query"]
        query = query["query"] if isinstance(query, dict) else query
        match = re.fullmatch(r"label_values\((?:(.+), *)?(\w+)\)", query)
        if variable["type"] == "query" and match:
            series, label = match.groups()
            found = get(f"label/{label}/values", **({"match[]": series} if series else {}))
            values[variable["name"]] = "|".join(found)
        elif variable["type"] in ("custom", "constant", "interval", "textbox"):
            values[variable["name"]] = query.split(",")[0].strip()
    return values


def panels(board):
    """Yields all panels, those of collapsed rows included."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries():
    """Yields the name of the panel and the query, with its variables replaced."""
    for path in paths:
        with open(path, encoding="utf-8") as file:
            board = json.load(file)
        values = variables(board)
        for panel in panels(board):
            for target in panel.get("targets", []):
                replaced = re.sub(
                    r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))",
                    lambda found: values.get(found[1] or found[2], found[0]),
                    target["expr"],
                )
                yield f"{board['title']}: {panel['title']}", replaced


def metrics(query):
    """Returns the metrics of a query: they have two words at least. `up` is Prometheus' own."""
    names = re.findall(r"\b[a-z]+(?:_[a-z]+)+\b(?=\s*[{\[)]|\s*[><=]|\s*$)", re.sub(r'"[^"]*"', '""', query))
    return set(names)


failures = []
asked = 0
# A query that asks for nothing must be found, or this check would find nothing.
if get("query", query="planted_metric_total")["result"]:
    failures.append("a metric that does not exist has data")
for name, query in queries():
    asked += 1
    reason = problem(query)
    if reason:
        failures.append(f"{name}: {reason}: {query}")

alerts = [rule for group in get("rules", type="alert")["groups"] for rule in group["rules"]]
for alert in alerts:
    while alert["health"] == "unknown" and time.monotonic() < deadline:
        time.sleep(1)
        groups = get("rules", **{"type": "alert", "rule_name[]": alert["name"]})["groups"]
        alert = groups[0]["rules"][0]
    if alert["health"] != "ok":
        failures.append(f"alert {alert['name']}: {alert['health']}: {alert.get('lastError', '')}")
    if alert["state"] == "firing":
        failures.append(f"alert {alert['name']}: it fires: {[each['labels'] for each in alert['alerts']]}")
    for metric in sorted(metrics(alert["query"])):
        reason = problem(f"count({metric})")
        if reason:
            failures.append(f"alert {alert['name']}: {reason}: {metric}")

for failure in failures:
    print(failure, file=sys.stderr)
print(f"{len(paths)} dashboards, {asked} queries, {len(alerts)} alerts, {len(failures)} failures")
sys.exit(1 if failures or not asked or not alerts else 0)
