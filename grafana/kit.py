"""The parts that all dashboards are made of: panels with a meaning and a unit, thresholds, variables, ways to traces."""

import json
from dataclasses import dataclass, field
from urllib.parse import quote

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

# Every query of the broker's own series. Envoy's have the job of Envoy.
OF = 'job="$job",instance=~"$instance"'
METRICS = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24  # columns of Grafana's grid
GREEN, YELLOW, RED = "green", "orange", "red"


@dataclass(frozen=True)
class Query:
    """An expression and the name of its lines (`{{method}}` puts a label in)."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Limits:
    """Where a value begins to be worth a look, and where it is bad; `source` says who fixed the numbers."""

    warn: float | None
    bad: float | None
    source: str
    low_is_bad: bool = False

    def steps(self) -> list[model.Threshold]:
        colours = [(self.warn, YELLOW), (self.bad, RED)]
        if self.low_is_bad:
            # From the lowest value on: bad below `bad`, a warning below `warn`.
            steps = [model.Threshold(value=None, color=RED if self.bad is not None else YELLOW)]
            if self.bad is not None and self.warn is not None:
                steps.append(model.Threshold(value=self.bad, color=YELLOW))
            return [*steps, model.Threshold(value=self.bad if self.warn is None else self.warn, color=GREEN)]
        steps = [model.Threshold(value=None, color=GREEN)]
        return steps + [model.Threshold(value=at, color=colour) for at, colour in colours if at is not None]


@dataclass(frozen=True)
class NoThresholds:
    """No value of the panel is good or bad by itself, for this reason."""

    reason: str

    def steps(self) -> list[model.Threshold]:
        return [model.Threshold(value=None, color=GREEN)]


def no_thresholds(reason: str) -> NoThresholds:
    """In the place of limits: the reason goes into the description, where check.py asks for it."""
    return NoThresholds(reason)


@dataclass(frozen=True)
class Panel:
    """One panel. `meaning` says what is drawn, `normal` what it looks like on a good day."""

    title: str
    meaning: str
    normal: str
    unit: str
    queries: list[Query]
    limits: Limits | NoThresholds
    kind: str = "lines"  # or "number", "bars"
    width: int = 8
    height: int = 8
    stacked: bool = False
    traces_of: list[str] = field(default_factory=list)  # operations in Jaeger that a click may go to

    def description(self) -> str:
        if isinstance(self.limits, NoThresholds):
            limits = f"No thresholds: {self.limits.reason}."
        else:
            limits = f"Thresholds: {self.limits.source}."
        return f"{self.meaning} Normal: {self.normal} {limits}"


@dataclass(frozen=True)
class Board:
    """A dashboard: rows of panels."""

    uid: str
    title: str
    description: str
    rows: list[tuple[str, list[Panel]]]
    # A series that only the job of this dashboard has: the variables are made of its labels.
    marker: str = "walcast_build_info"


def trace_link(operation: str) -> dashboard.DashboardLink:
    """To the traces of an operation in Jaeger, over the time that the panel shows."""
    query = {"refId": "A", "queryType": "search", "service": "walcast", "operation": operation, "limit": 20}
    left = {
        "datasource": "${traces}",
        "queries": [query],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    # Grafana puts its variables in before it opens the link: they must stay readable.
    url = "/explore?left=" + quote(json.dumps(left, separators=(",", ":")), safe="${}")
    return dashboard.DashboardLink(f"Traces of {operation}").url(url).target_blank(True)


def legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(options.LegendDisplayMode.LIST)
        .placement(options.LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def builder(panel: Panel):
    """The panel as its plugin wants it."""
    if panel.kind == "lines":
        lines = timeseries.Panel().legend(legend()).line_width(1).fill_opacity(10)
        lines.tooltip(
            common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
        )
        if isinstance(panel.limits, Limits):
            style = common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED)
            lines.thresholds_style(style)
        if panel.stacked:
            lines.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
        return lines.min(0)
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    if panel.kind == "number":
        number = stat.Panel().reduce_options(last).graph_mode(options.BigValueGraphMode.AREA)
        return number.color_mode(options.BigValueColorMode.VALUE)
    bars = bargauge.Panel().reduce_options(last).display_mode(options.BarGaugeDisplayMode.GRADIENT)
    return bars.orientation(options.VizOrientation.HORIZONTAL).min(0)


def build_panel(panel: Panel, number: int):
    built = builder(panel).id(number).title(panel.title).description(panel.description()).unit(panel.unit)
    built.datasource(METRICS).span(panel.width).height(panel.height)
    built.thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(panel.limits.steps()))
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter)
        built.with_target(target.range().datasource(METRICS).editor_mode("code"))
    if any(query.expr.endswith("> 0") for query in panel.queries):
        built.no_value("none")  # what Grafana calls "No data" is good news there
    if panel.traces_of:
        built.data_links([trace_link(operation) for operation in panel.traces_of])
    return built


def variables(board: Board) -> list:
    def of_label(name: str, label: str, expr: str):
        query = dashboard.QueryVariable(name).label(label).datasource(METRICS)
        query.query({"query": expr, "refId": name}).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        return query.sort(model.VariableSort.ALPHABETICAL_ASC)

    instances = of_label("instance", "Instance", f'label_values({board.marker}{{job="$job"}}, instance)')
    return [
        dashboard.DatasourceVariable("datasource").label("Metrics").type("prometheus"),
        dashboard.DatasourceVariable("traces").label("Traces").type("jaeger"),
        of_label("job", "Job", f"label_values({board.marker}, job)"),
        instances.multi(True).include_all(True).all_value(".+"),
    ]


def build(board: Board) -> model.Dashboard:
    others = dashboard.DashboardLink("Other dashboards of walcast").type(model.DashboardLinkType.DASHBOARDS)
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["walcast"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(others.tags(["walcast"]).as_dropdown(True).include_vars(True).keep_time(True))
        .variables(variables(board))
    )
    number = 0
    for title, panels in board.rows:
        number += 1
        built.with_row(dashboard.Row(title).id(number))
        for panel in panels:
            number += 1
            built.with_panel(build_panel(panel, number))
    return built.build()


def select(series: str, of: str = OF, **labels: str) -> str:
    """A series of the chosen instances. A label's value may begin with its operator: `!=OK`, `=~Publish|Fetch`."""

    def match(name: str, value: str) -> str:
        operator = next((operator for operator in ("!=", "=~", "!~") if value.startswith(operator)), "")
        return f'{name}{operator or "="}"{value.removeprefix(operator)}"'

    return f"{series}{{{','.join([of, *(match(name, value) for name, value in labels.items())])}}}"


def rate(series: str, of: str = OF, **labels: str) -> str:
    """Events a second of one series."""
    return f"rate({select(series, of, **labels)}[$__rate_interval])"


def quantiles(series: str, by: str = "", of: str = OF, **labels: str) -> list[Query]:
    """Median and 99th percentile of a histogram, over all instances that are chosen."""
    name = f"{{{{{by}}}}} " if by else ""
    le = f"le, {by}" if by else "le"
    expr = f"sum by ({le}) ({rate(series + '_bucket', of, **labels)})"
    return [Query(f"histogram_quantile({q}, {expr})", f"{name}{word}") for q, word in [(0.5, "median"), (0.99, "p99")]]


def one(expr: str, legend_text: str = "{{instance}}") -> list[Query]:
    return [Query(expr, legend_text)]
