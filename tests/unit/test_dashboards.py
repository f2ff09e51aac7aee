"""The dashboards: generated from code, in Grafana's current schema, each panel in its own place."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
PANELS = {"stat", "timeseries", "table", "row", "heatmap", "bargauge", "gauge", "barchart", "text", "state-timeline"}
"""Panel types that Grafana 12 has; `graph`, `singlestat`, `table-old` and other Angular panels are gone."""


def built(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those in rows included."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels") or []


def expressions(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in panels(board):
        for target in panel.get("targets") or []:
            yield panel["title"], target["expr"]


def substituted(expression: str) -> str:
    """The expression with values in place of Grafana's variables."""
    for name, value in {"__rate_interval": "1m", "__interval": "15s", "__range": "1h", "queue": ".+"}.items():
        expression = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value, expression)
    return expression


def differences(ours: Any, theirs: Any, where: str = "$") -> Iterator[str]:
    """What is in our JSON and not, or otherwise, in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key not in theirs:
                yield f"{where}.{key} was dropped"
            else:
                yield from differences(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif ours != theirs:
        yield f"{where}: {ours!r} became {theirs!r}"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("grafana_build", ROOT / "grafana" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    written = generator().write(tmp_path)
    assert {path.name for path in written} == {path.name for path in FILES}
    for path in written:
        assert path.read_text() == (ROOT / "grafana" / "dashboards" / path.name).read_text(), "run: make dashboards"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafanas_model_keeps_every_key(path: Path) -> None:
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    ours = built(path)
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
    assert list(differences(ours, theirs)) == []
    assert ours["schemaVersion"] == 42


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_are_current_and_have_ids_and_places_of_their_own(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    ids = []
    for panel in panels(built(path)):
        assert panel["type"] in PANELS
        ids.append(panel["id"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken[x, y]}"
                taken[x, y] = panel["title"]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_panel_says_what_it_shows(path: Path) -> None:
    for panel in panels(built(path)):
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)), panel["title"]
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"] is True, panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_queries_parse_and_use_no_undefined_variable(path: Path) -> None:
    board = built(path)
    defined = {variable["name"] for variable in board["templating"]["list"]}
    known = defined | {"__rate_interval", "__interval", "__range"}
    text = json.dumps([board["panels"], [v.get("query") for v in board["templating"]["list"]]])
    used = set(re.findall(r"\$\{?(\w+)\}?", text)) - {"1"}
    assert used <= known
    assert defined <= used, "a variable is defined and not used"
    for title, expression in expressions(board):
        query = substituted(expression)
        assert "$" not in query, title
        promql_parser.parse(query)


def test_the_data_source_of_the_dashboards_is_provisioned() -> None:
    sources = yaml.safe_load((ROOT / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    found = {(source["type"], source["isDefault"]) for source in sources if source.get("isDefault")}
    assert found == {("prometheus", True)}
    provider = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/rqstack.yml").read_text())["providers"][0]
    compose = yaml.safe_load((ROOT / "docker-compose-monitor.yml").read_text())["services"]["grafana"]
    assert "./grafana:/etc/rqstack/grafana:ro" in compose["volumes"]
    assert provider["options"]["path"] == "/etc/rqstack/grafana/dashboards"
    assert compose["environment"]["GF_PATHS_PROVISIONING"] == "/etc/rqstack/grafana/provisioning"
    home = compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "grafana/dashboards" / Path(home).name).is_file()
