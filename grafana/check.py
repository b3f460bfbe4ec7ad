#!/usr/bin/env python3
"""Reads the dashboards of a folder back with the library that wrote them, and says what is wrong with them.

    target/services/venv/bin/python grafana/check.py FOLDER

One line for each fault, exit code 1 if there is one. Whether the queries return data is asked of a real Prometheus by
`cargo test --test prometheus`.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as model

# Of Grafana's list of units, those that a dashboard may need here: an unknown one is shown as a suffix.
UNITS = {"short", "s", "ms", "bytes", "Bps", "percentunit", "ops", "reqps", "bool_yes_no"}
BUILT_IN = {"__rate_interval", "__interval", "__range", "__from", "__to"}
# Where a description may take the name of an alert from.
RULES = Path(__file__).parent.parent / "deploy" / "prometheus" / "walcast.alerts.yml"
ALERTS = set(re.findall(r"^\s*- alert: (\w+)$", RULES.read_text(encoding="utf-8"), re.MULTILINE))
DATASOURCES = {"${datasource}", "${traces}"}


def twice(values: list) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def datasources(node: object) -> Iterator[str]:
    """Every uid of a datasource anywhere below, links into Explore included."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "datasource":
                yield value.get("uid") if isinstance(value, dict) else value
            else:
                yield from datasources(value)
    elif isinstance(node, list):
        for value in node:
            yield from datasources(value)
    elif isinstance(node, str):
        yield from re.findall(r"%22datasource%22%3A%22(.*?)%22", node)


def of_panel(panel: model.Panel, variables: set[str]) -> Iterator[str]:
    defaults = panel.field_config.defaults if panel.field_config else None
    if not panel.title:
        yield "has no title"
    if not panel.description or "Normal: " not in panel.description:
        yield "has no description that says what is normal"
    if not defaults or not defaults.unit:
        yield "has no unit"
    elif defaults.unit not in UNITS:
        yield f"has an unknown unit {defaults.unit}"
    # The first step is the colour of the lowest values: a single one judges nothing.
    steps = (defaults.thresholds.steps if defaults and defaults.thresholds else None) or []
    words = panel.description or ""
    if len(steps) < 2 and not re.search(r"\bNo thresholds: \w+ \w+", words):
        yield "has no thresholds and no reason why"
    elif len(steps) > 1 and not re.search(r"\bThresholds: \w+", words):
        yield "does not say where its thresholds come from"
    elif len(steps) > 1 and "No thresholds: " in words:
        yield "has thresholds and says that it has none"
    for name in re.findall(r"\bWalcast\w+", panel.description or ""):
        if name not in ALERTS:
            yield f"names an alert {name} that is not there"
    if not panel.datasource or panel.datasource.uid != "${datasource}":
        yield "does not use the datasource variable"
    if not panel.targets:
        yield "has no query"
    for ref in twice([target.ref_id for target in panel.targets or []]):
        yield f"has two queries {ref}"
    for target in panel.targets or []:
        if not target.expr or not target.legend_format:
            yield f"has a query {target.ref_id} without expression or legend"
        if (target.datasource or {}).get("uid") != "${datasource}":  # which the library leaves as it is
            yield f"has a query {target.ref_id} that does not use the datasource variable"
        for name in re.findall(r"\$\{?(\w+)", target.expr or ""):
            if name not in variables | BUILT_IN:
                yield f"uses a variable ${name} that is not there"
        for name in ("$job", "$instance"):
            if name not in (target.expr or ""):
                yield f"has a query {target.ref_id} that does not heed {name}"


def overlapping(panels: list) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel.grid_pos
        if at.x + at.w > 24:
            yield f"{panel.title!r} leaves the grid"
        for cell in ((x, y) for x in range(at.x, at.x + at.w) for y in range(at.y, at.y + at.h)):
            other = taken.setdefault(cell, panel.title)
            if other != panel.title:
                yield f"{panel.title!r} lies on {other!r}"
                break


def of_dashboard(text: str) -> Iterator[str]:
    raw = json.loads(text)
    board = model.Dashboard.from_json(raw)
    again = json.loads(JSONEncoder().encode(board))
    if again != raw:
        yield "is not what the library reads: it has fields that Grafana does not know"
    variables = {variable.name for variable in (board.templating.list_val if board.templating else None) or []}
    for name in {"datasource", "traces", "job", "instance"} - variables:
        yield f"has no variable {name}"
    panels = board.panels or []
    for number in twice([panel.id_val for panel in panels]):
        yield f"has two panels with id {number}"
    for title in twice([panel.title for panel in panels if not isinstance(panel, model.RowPanel)]):
        yield f"has two panels called {title!r}"
    yield from overlapping(panels)
    for uid in datasources(raw):
        if uid not in DATASOURCES:
            yield f"has a fixed datasource {uid}"
    for panel in panels:
        if not isinstance(panel, model.RowPanel):
            yield from (f"panel {panel.title!r} {fault}" for fault in of_panel(panel, variables))


def main() -> int:
    register_default_plugins()
    files = sorted(Path(sys.argv[1]).glob("*.json"))
    faults = [f"{file.name}: {fault}" for file in files for fault in of_dashboard(file.read_text(encoding="utf-8"))]
    uids = [json.loads(file.read_text(encoding="utf-8")).get("uid") for file in files]
    faults += [f"two dashboards have uid {uid}" for uid in twice(uids)]
    if not files:
        faults.append("there is no dashboard")
    print("\n".join(faults) or f"{len(files)} dashboards are in order")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
