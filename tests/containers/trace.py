"""Asserts that a trace is one tree, from sendMessage through both services and both logs to the frame of a subscription:
trace.py FILE, as the collector of images/jaeger answers. Prints the tree and a summary.
"""

import json
import sys

spans = {span["id"]: span for span in json.load(open(sys.argv[1]))}
steps = {(span["service"], span["name"]) for span in spans.values()}
needed = {
    ("tidings-gateway", "POST /graphql"),
    ("tidings-counter", "process tidings.dialog"),
    ("tidings-dialog", "process tidings.counter"),
    ("tidings-gateway", "process tidings.unread"),
    ("tidings-gateway", "frame"),
}
assert needed <= steps, f"missing: {needed - steps}"
roots = [span for span in spans.values() if span["parent"] not in spans]
assert len(roots) == 1 and roots[0]["name"] == "POST /graphql", roots


def show(span, depth):
    print(f"{'  ' * depth}{span['service']}: {span['name']}, {(span['end'] - span['start']) / 1e6:.1f} ms")
    below = [child for child in spans.values() if child["parent"] == span["id"]]
    for child in sorted(below, key=lambda child: child["start"]):
        show(child, depth + 1)


show(roots[0], 0)
processes = {(span["service"], span["instance"]) for span in spans.values()}
print(f"{len(spans)} spans of {len(processes)} processes: {', '.join(sorted(service for service, _ in processes))}")
