"""Prometheus's and Alertmanager's own tools accept the files, and each rule is held by a test that a change breaks."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "prometheus"
PROMTOOL = shutil.which("promtool")
AMTOOL = shutil.which("amtool")

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")

# Changes that no test can tell apart: equal but for a value that is met exactly, where Prometheus 2 and 3 differ in
# which samples lie in a range.
EQUIVALENT = {
    ("RQQueueGrowing", "predict_linear(queue:rq_jobs_queued:sum[30m], 14400) >= 1000"),
    ("RQFailedRegistryLarge", "delta(queue:rq_jobs_failed:sum[1h]) >= 500"),
}


def rules() -> dict[str, tuple[Path, str, dict[str, object]]]:
    """Each rule by name: its file, its expression, the whole rule."""
    found = {}
    for path in sorted((FOLDER / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                found[rule.get("alert") or rule["record"]] = (path, rule["expr"], rule)
    return found


RULES = rules()
ALERTS = {name: rule for name, (_, _, rule) in RULES.items() if "alert" in rule}


def changed_expressions(expression: str) -> Iterator[str]:
    """The expression with one operator, number, range or matcher changed, all of them one after the other."""
    operators = {">=": ("<", ">"), "==": ("!=",), ">": ("<", ">="), " and ": (" or ",), " unless ": (" and ",)}
    operators |= {" or ": (" and ",), " / ": (" * ",), '="': ('!="',)}
    for match in re.finditer(r">=|==|(?<![=<])>(?!=)| and | unless | / |\bor\b(?= )| or |(?<![!=])=\"", expression):
        for other in operators.get(match[0], ()):
            yield expression[: match.start()] + other + expression[match.end() :]
    for match in re.finditer(r"(?<=[>=] )-?\d+(\.\d+)?\b|(?<=, )\d+(?=\))", expression):
        number = float(match[0])
        for other_number in (number * 2, number / 2) if number else (1.0, -1.0):
            yield f"{expression[: match.start()]}{other_number:g}{expression[match.end() :]}"
    for match in re.finditer(r"\[(\d+)([mh])\]", expression):
        for other_range in (int(match[1]) * 120, int(match[1]) * 30):
            seconds = other_range * (60 if match[2] == "h" else 1)
            yield f"{expression[: match.start()]}[{seconds}s]{expression[match.end() :]}"
    yield f"({expression}) > +Inf"
    if "sum by" in expression:
        yield expression.replace("sum by", "min by", 1)
    for match in re.finditer(r"or label_replace\([^\n]*\n", expression):
        yield expression[: match.start()] + expression[match.end() :]


def mutants() -> Iterator[tuple[str, str, object]]:
    """(rule, what is changed, its new value)"""
    for name, (_, expression, rule) in RULES.items():
        for changed in changed_expressions(expression):
            if not any(name == rule_name and part in changed for rule_name, part in EQUIVALENT):
                yield name, "expr", changed
        if "for" in rule:
            minutes = int(str(rule["for"]).removesuffix("m"))
            yield name, "for", f"{minutes + 1}m"
            yield name, "for", f"{minutes - 1}m"
        if "labels" in rule:
            yield name, "labels", {"severity": "other"}


def copy_with(folder: Path, name: str, key: str, value: object) -> None:
    """A copy of the rules and tests, with one thing of one rule changed."""
    for part in ("rules", "tests"):
        shutil.copytree(FOLDER / part, folder / part)
    path = folder / "rules" / RULES[name][0].name
    document = yaml.safe_load(path.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            if name in (rule.get("alert"), rule.get("record")):
                rule[key] = value
    path.write_text(yaml.safe_dump(document))


def own_tests(name: str) -> str:
    """The file in prometheus/tests that holds a rule."""
    return re.sub("Ratio(High|Critical)", "Ratio", name) if name in ALERTS else "recording"


def run_tests(folder: Path, pattern: str = "*") -> subprocess.CompletedProcess[str]:
    tests = sorted(str(path) for path in (folder / "tests").glob(f"{pattern}.yml"))
    assert tests, f"no tests/{pattern}.yml"
    return subprocess.run([str(PROMTOOL), "test", "rules", *tests], capture_output=True, text=True)


@needs_promtool
def test_prometheus_accepts_its_configuration_and_rules() -> None:
    done = subprocess.run([str(PROMTOOL), "check", "config", FOLDER / "prometheus.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout
    files = sorted((FOLDER / "rules").glob("*.yml"))
    done = subprocess.run([str(PROMTOOL), "check", "rules", "--lint=all", "--lint-fatal", *files], capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(AMTOOL is None, reason="amtool is not installed")
def test_alertmanager_accepts_its_configuration_and_routes_by_it() -> None:
    configuration = FOLDER / "alertmanager.yml"
    done = subprocess.run([str(AMTOOL), "check-config", configuration], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for labels, receiver in (("alertname=RQWatchdog", "watchdog"), ("alertname=RQRedisDown", "default")):
        command = [str(AMTOOL), "config", "routes", "test", f"--config.file={configuration}", labels]
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == receiver


@needs_promtool
def test_the_rules_pass_their_tests() -> None:
    done = run_tests(FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("name", RULES)
def test_a_changed_rule_fails_its_tests(name: str, tmp_path: Path) -> None:
    survivors = []
    tried = 0
    for number, (rule, key, value) in enumerate(mutants()):
        if rule != name:
            continue
        folder = tmp_path / str(number)
        copy_with(folder, name, key, value)
        done = run_tests(folder, own_tests(name))
        tried += 1
        if done.returncode == 0:
            survivors.append((key, value))
    assert tried, f"nothing of {name} was changed"
    assert not survivors


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_runbook_page(name: str) -> None:
    rule = ALERTS[name]
    page = ROOT / rule["annotations"]["runbook"]  # type: ignore[index]
    assert page == ROOT / "docs" / "runbook" / f"{name}.md"
    text = page.read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Meaning", "Impact", "Diagnosis", "What to do", "How to see that it is over"]
    diagnosis = text.split("## Diagnosis")[1].split("## What to do")[0]
    assert re.search(r"^    \S", diagnosis, re.MULTILINE), "no command to diagnose with"


def test_each_runbook_page_has_an_alert() -> None:
    assert {path.stem for path in (ROOT / "docs" / "runbook").glob("RQ*.md")} == set(ALERTS)


@pytest.mark.parametrize("page", ["monitoring.md", *(f"runbook/{name}.md" for name in ALERTS)])
def test_the_commands_of_the_pages_exist(page: str) -> None:
    import click

    from rqstack.cli.group import cli

    text = (ROOT / "docs" / page).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    for line in re.findall(r"\.venv/bin/rqstack ([^`\n]+)", text):
        words = line.split()
        context = click.Context(cli)
        command: click.Command | None = cli
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        assert command is not None, line
        command.make_context(line, words)  # complains of what it does not know


def test_the_table_of_alerts_is_complete() -> None:
    table = (ROOT / "docs" / "monitoring.md").read_text().split("## Alerts")[1]
    assert {
        name: severity.strip() for name, severity in re.findall(r"^\| \[(RQ\w+)\]\(.*\| (\w+) \|$", table, re.MULTILINE)
    } == {name: rule["labels"]["severity"] for name, rule in ALERTS.items()}  # type: ignore[index]
