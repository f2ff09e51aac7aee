"""Write grafana/dashboards/*.json: the dashboards are this code, and what is changed by hand in Grafana is not kept.

    make dashboards             write them
    python grafana/build.py DIR write them elsewhere

Each panel states its place and its id, so that a change of one moves no other and links to panels last.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
STATUSES = ("queued", "started", "scheduled", "deferred", "finished", "failed")
COLOURS = {
    "queued": "blue",
    "started": "yellow",
    "busy": "yellow",
    "finished": "green",
    "succeeded": "green",
    "idle": "green",
    "failed": "red",
    "deferred": "purple",
    "scheduled": "super-light-blue",
    "suspended": "orange",
}


def query(
    expression: str, legend: str = "", *, instant: bool = False, rows: bool = False, ref: str = "A"
) -> prometheus.Dataquery:
    """A Prometheus query of a panel.

    Args:
        expression: PromQL; may use the dashboard's variables.
        legend: The name of a series, with labels as {{label}}.
        instant: One value, of the end of the range.
        rows: As rows of a table.
        ref: The query's letter, unique in its panel.
    """
    built = prometheus.Dataquery().datasource(SOURCE).expr(expression).ref_id(ref)
    built = built.instant() if instant else built.range()
    built = built.format(PromQueryFormat.TABLE if rows else PromQueryFormat.TIME_SERIES)
    return built.legend_format(legend) if legend else built


def limits(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Colours from values on: (None, "green"), (1, "red")."""
    found = [Threshold(value=value, color=colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def place(panel: Any, number: int, title: str, description: str, at: tuple[int, int, int, int], unit: str) -> Any:
    """What every panel has: id, title, what it tells, (x, y, width, height) and unit."""
    x, y, w, h = at
    built = panel.id(number).title(title).description(description).datasource(SOURCE)
    return built.grid_pos(GridPos(x=x, y=y, w=w, h=h)).unit(unit)


def number(
    id_: int, title: str, description: str, at: tuple[int, int, int, int], expression: str, unit: str, colours: Any
) -> stat.Panel:
    """One value, with its course behind it."""
    panel = place(stat.Panel(), id_, title, description, at, unit)
    panel = panel.thresholds(colours).color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.AREA)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    return panel.with_target(query(expression))  # type: ignore[no-any-return]


def course(
    id_: int,
    title: str,
    description: str,
    at: tuple[int, int, int, int],
    queries: list[prometheus.Dataquery],
    unit: str,
    *,
    stacked: bool = False,
    names: tuple[str, ...] = (),
) -> timeseries.Panel:
    """Lines over time, with a legend below; the series of these names in their own colours."""
    panel = place(timeseries.Panel(), id_, title, description, at, unit)
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.TABLE)
    legend = legend.placement(LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])
    panel = panel.legend(legend).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    panel = panel.min(0).line_width(1).fill_opacity(40 if stacked else 10).show_points(VisibilityMode.NEVER)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    for built in queries:
        panel = panel.with_target(built)
    for name in names:
        fixed = {"mode": FieldColorModeId.FIXED.value, "fixedColor": COLOURS[name]}
        panel = panel.override_by_name(name, [DynamicConfigValue(id_val="color", value=fixed)])
    return panel  # type: ignore[no-any-return]


def row(title: str, id_: int, y: int) -> dashboard.Row:
    """A heading over the panels that follow."""
    return dashboard.Row(title).id(id_).grid_pos(GridPos(x=0, y=y, w=24, h=1)).collapsed(False)


def queue_table(id_: int, at: tuple[int, int, int, int]) -> table.Panel:
    """Each queue's jobs by status and its workers, one line a queue."""
    panel = place(
        table.Panel(), id_, "Queues", "Jobs by status, and the workers that listen to each queue, now.", at, "short"
    )
    for letter, status in zip("ABCDEF", STATUSES, strict=True):
        expression = f'sum by (queue) (rq_jobs{{queue=~"$queue", status="{status}"}})'
        panel = panel.with_target(query(expression, instant=True, rows=True, ref=letter))
    panel = panel.with_target(query('queue:rq_workers:count{queue=~"$queue"}', instant=True, rows=True, ref="G"))
    names = {f"Value #{letter}": status for letter, status in zip("ABCDEF", STATUSES, strict=True)}
    order = ["queue", *names, "Value #G"]
    panel = panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(  # type: ignore[no-any-return]
        DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True, "__name__": True},
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": {**names, "Value #G": "workers"},
            },
        )
    )


def variables() -> list[Any]:
    """The data source, and the queues."""
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    queues = dashboard.QueryVariable("queue").label("Queue").datasource(SOURCE).query("label_values(rq_jobs, queue)")
    queues = queues.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return [source, queues.multi(True).include_all(True).all_value(".+")]


def rq() -> dashboard.Dashboard:
    """What rq-exporter gives: queues, workers, throughput, failures, durations."""
    good, warn, bad = "green", "orange", "red"
    share = "sum(rate(rq_workers_failed_total[$__rate_interval]))"
    ended = f"({share} + sum(rate(rq_workers_success_total[$__rate_interval])))"
    panels: list[Any] = [
        row("Now", 1, 0),
        number(
            2,
            "Waiting jobs",
            "Jobs in the queues, not yet started.",
            (0, 1, 4, 4),
            'sum(rq_jobs{queue=~"$queue", status="queued"})',
            "short",
            limits((None, good), (1000, warn)),
        ),
        number(
            3,
            "Running jobs",
            "Jobs that workers are running.",
            (4, 1, 4, 4),
            'sum(rq_jobs{queue=~"$queue", status="started"})',
            "short",
            limits((None, good)),
        ),
        number(
            4,
            "Workers",
            "Worker processes that Redis knows. One that died stays until its record expires.",
            (8, 1, 4, 4),
            "sum(rq_workers)",
            "short",
            limits((None, bad), (1, good)),
        ),
        number(
            5,
            "Busy workers",
            "The share of the workers that run a job.",
            (12, 1, 4, 4),
            '(sum(rq_workers{state="busy"}) or vector(0)) / sum(rq_workers)',
            "percentunit",
            limits((None, good), (0.9, warn)),
        ),
        number(
            6,
            "Failed attempts",
            "The share of the attempts within the last 10 minutes that failed.",
            (16, 1, 4, 4),
            "sum(increase(rq_workers_failed_total[10m])) / (sum(increase(rq_workers_failed_total[10m]))"
            " + sum(increase(rq_workers_success_total[10m])) > 0)",
            "percentunit",
            limits((None, good), (0.05, warn), (0.5, bad)),
        ),
        number(
            7,
            "Redis",
            "1 while Redis answers rq-exporter.",
            (20, 1, 4, 4),
            "min(redis_up)",
            "short",
            limits((None, bad), (1, good)),
        ),
        row("Queues", 10, 5),
        queue_table(11, (0, 6, 24, 7)),
        course(
            12,
            "Waiting jobs by queue",
            "Jobs in each queue, not yet started.",
            (0, 13, 12, 8),
            [query('sum by (queue) (rq_jobs{queue=~"$queue", status="queued"})', "{{queue}}")],
            "short",
            stacked=True,
        ),
        course(
            13,
            "Jobs by status",
            "Jobs that Redis holds, by status. Finished jobs leave when their result expires: this is no throughput.",
            (12, 13, 12, 8),
            [query('sum by (status) (rq_jobs{queue=~"$queue"})', "{{status}}")],
            "short",
            stacked=True,
            names=STATUSES,
        ),
        row("Work", 20, 21),
        course(
            21,
            "Attempts per second",
            "Attempts that ended, by outcome, from the workers' counters. A retried job counts once for each attempt.",
            (0, 22, 12, 8),
            [
                query("sum(rate(rq_workers_success_total[$__rate_interval]))", "succeeded"),
                query(share, "failed", ref="B"),
            ],
            "ops",
            stacked=True,
            names=("succeeded", "failed"),
        ),
        course(
            22,
            "Share of failed attempts",
            "By the queues that the workers listen to. The lines end where nothing ran.",
            (12, 22, 12, 8),
            [
                query(
                    "sum by (queues) (rate(rq_workers_failed_total[$__rate_interval])) / (sum by (queues) "
                    "(rate(rq_workers_failed_total[$__rate_interval])) + sum by (queues) "
                    "(rate(rq_workers_success_total[$__rate_interval])) > 0)",
                    "{{queues}}",
                )
            ],
            "percentunit",
        ),
        course(
            23,
            "Average duration",
            "Working time of all workers, divided by the attempts that ended.",
            (0, 30, 12, 8),
            [query(f"sum(rate(rq_workers_working_time_total[$__rate_interval])) / ({ended} > 0)", "average duration")],
            "s",
        ),
        course(
            24,
            "Work done by queues",
            "How many workers' time was worked, by the queues that the workers listen to.",
            (12, 30, 12, 8),
            [query("sum by (queues) (rate(rq_workers_working_time_total[$__rate_interval]))", "{{queues}}")],
            "short",
            stacked=True,
        ),
        course(
            25,
            "Attempts by hour",
            "Attempts that ended within the hour before: when most was executed.",
            (0, 38, 24, 7),
            [
                query("sum(increase(rq_workers_success_total[1h]))", "succeeded"),
                query("sum(increase(rq_workers_failed_total[1h]))", "failed", ref="B"),
            ],
            "short",
            stacked=True,
            names=("succeeded", "failed"),
        ),
        row("Workers and monitoring", 30, 45),
        course(
            31,
            "Workers by state",
            "Idle, busy or suspended, as the workers say.",
            (0, 46, 12, 8),
            [query("sum by (state) (rq_workers)", "{{state}}")],
            "short",
            stacked=True,
            names=("idle", "busy", "suspended"),
        ),
        course(
            32,
            "Time to collect",
            "How long rq-exporter reads Redis for one scrape, and how long Prometheus waits for the page.",
            (12, 46, 12, 8),
            [
                query(
                    "rate(rq_request_processing_seconds_sum[$__rate_interval])"
                    " / (rate(rq_request_processing_seconds_count[$__rate_interval]) > 0)",
                    "collect {{instance}}",
                ),
                query('scrape_duration_seconds{job="rq"}', "scrape {{instance}}", ref="B"),
            ],
            "s",
        ),
    ]
    board = dashboard.Dashboard("RQ").uid("rqstack-rq").tags(["rqstack"]).tooltip(DashboardCursorSync.CROSSHAIR)
    board = board.description("Queues, jobs and workers, as rq-exporter shows them.").readonly()
    board = board.time("now-1h", "now").refresh("30s").timezone("browser").variables(variables())
    for panel in panels:
        board = board.with_row(panel) if isinstance(panel, dashboard.Row) else board.with_panel(panel)
    return board


DASHBOARDS = {"rq": rq}


def write(folder: Path) -> list[Path]:
    """Write each dashboard's JSON into a folder, and return the files."""
    written = []
    for name, make in DASHBOARDS.items():
        path = folder / f"{name}.json"
        path.write_text(JSONEncoder(sort_keys=True, indent=2).encode(make().build()) + "\n")
        written.append(path)
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards"
    for path in write(target):
        print(path)
