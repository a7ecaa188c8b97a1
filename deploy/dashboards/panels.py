"""What all panels share: look, data source, and that each one says what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

COLUMNS = 24  # Grafana's grid
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, RED = "green", "yellow", "red"

Panel = timeseries.Panel | stat.Panel


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the name of its series, in which `{{label}}` stands for a label."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """From these values on a number is yellow, and red."""

    yellow: float
    red: float


def ours(*more: str) -> str:
    """The label selector of one deployment's workers."""
    return "{" + ", ".join(['job="$job"', *more]) + "}"


def rate(name: str, *labels: str) -> str:
    return f"rate({name}{ours(*labels)}[$__rate_interval])"


def quantile(q: float, name: str, by: str = "", *labels: str) -> str:
    """Of a histogram over all workers, or by a label."""
    return f"histogram_quantile({q}, sum by ({by or 'le'}{', le' if by else ''}) ({rate(f'{name}_bucket', *labels)}))"


def graph(
    title: str, what: str, to_do: str, unit: str, *queries: Query, span: int = 12, stacked: bool = False
) -> timeseries.Panel:
    """Lines over time. `what`: what is shown; `to_do`: what to do when it looks wrong."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(_description(what, to_do))
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(span)
        .height(8)
        .fill_opacity(10)
        .line_width(1)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    for index, query in enumerate(queries):
        panel = panel.with_target(_target(query, index))
    return panel


def number(title: str, what: str, to_do: str, unit: str, query: Query, bounds: Bounds | None = None) -> stat.Panel:
    """One number, its course behind it."""
    steps = [models.Threshold(value=None, color=GREEN)]
    if bounds is not None:
        rising = bounds.yellow <= bounds.red
        if rising:
            steps += [models.Threshold(bounds.yellow, YELLOW), models.Threshold(bounds.red, RED)]
        else:
            steps = [models.Threshold(None, RED), models.Threshold(bounds.red, YELLOW)]
            steps.append(models.Threshold(bounds.yellow, GREEN))
    return (
        stat.Panel()
        .title(title)
        .description(_description(what, to_do))
        .datasource(SOURCE)
        .unit(unit)
        .span(COLUMNS // 6)
        .height(4)
        .graph_mode(common_models.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_target(query, 0))
    )


def board(uid: str, title: str, description: str, panels: Sequence[Panel], by_worker: bool = False) -> models.Dashboard:
    """A dashboard of one deployment, or of one of its workers."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["trunkline"])
        .timezone("browser")
        .refresh("10s")
        .time("now-30m", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(dashboard.DashboardLink("Trunkline").type(models.DashboardLinkType.DASHBOARDS).tags(["trunkline"]))
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus").label("Data source"))
        .with_variable(_variable("job", "Deployment", "label_values(trunkline_ready, job)"))
    )
    if by_worker:
        made = made.with_variable(
            _variable("instance", "Worker", 'label_values(trunkline_ready{job="$job"}, instance)')
        )
    for index, panel in enumerate(panels, start=1):
        made = made.with_panel(panel.id(index))
    return made.build()


def _description(what: str, to_do: str) -> str:
    return f"{what}\n\n**What to do:** {to_do}"


def _target(query: Query, index: int) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).range().ref_id(chr(ord("A") + index)).datasource(SOURCE)
    return target.legend_format(query.legend) if query.legend else target


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
