"""The compose files and Dockerfiles, as text: defaults are those of the settings, and each image is a target."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from rqstack.settings import Settings, StackSettings
from rqstack.settings.loader import declared_settings
from rqstack.stack import env

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("docker-compose*.yml"))
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[-?+])(?P<value>[^}]*))?\}")
OTHER_DEFAULTS = {"${GRAFANA_PROFILE:-postgres}"}
"""Where Grafana needs no profile, it is started with the only other one too."""


def defaults() -> dict[str, str]:
    return {
        setting.name: env.default(setting)
        for cls in (Settings, StackSettings)
        for setting in declared_settings(cls).values()
    }


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_each_default_is_that_of_settings_py(file: Path) -> None:
    known = defaults() | {"RQ_KEY_PREFIX": "rq"}  # RQ's own
    found = [match for match in VARIABLE.finditer(file.read_text()) if match[0] not in OTHER_DEFAULTS]
    assert len(found) > 10
    for match in found:
        assert match["name"] in known, f"{match[0]} is no setting"
        assert match["kind"], f"{match[0]} has neither a default nor a message"
        if match["kind"] == "-":
            assert match["value"] == known[match["name"]], match[0]


NOT_IN_CONTAINERS = {
    "REDIS_PASSWORD": "a file",
    "RQSTACK_SECRET_KEY": "a file",
    "REDIS_TLS_CERT": "Redis's own, a file",
    "REDIS_TLS_KEY": "Redis's own, a file",
    "RQSTACK_LONG_QUEUES": "the RQSTACK_QUEUES of the service long-worker",
    "RQSTACK_RELOAD": "for development without containers",
    "RQSTACK_QUEUE_BACKEND": "another message store than the stack's Redis is an override file's",
    "RQSTACK_QUEUE_CONNECTION": "as RQSTACK_QUEUE_BACKEND",
    "RQSTACK_DATABASE_URL": "holds a password; workers open no database",
}


def test_each_setting_of_a_process_reaches_the_containers() -> None:
    given = set(re.findall(r"^ +([A-Z_]+?)(?:_FILE)?:", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE))
    names = {setting.name for setting in declared_settings(Settings).values()}
    assert names - given == NOT_IN_CONTAINERS.keys() - {"REDIS_PASSWORD", "RQSTACK_SECRET_KEY"}


def test_each_image_is_a_target_of_the_one_dockerfile() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "services" / "Dockerfile").read_text(), re.MULTILINE))
    built = {}
    for file in FILES:
        services = yaml.safe_load(file.read_text())["services"]
        built |= {name: service["build"] for name, service in services.items() if "build" in service}
    assert built.keys() == {"worker", "tasks", "rq-exporter", "dashboard"}
    for name, build in built.items():
        assert (build["dockerfile"], build["target"]) == ("services/Dockerfile", name)
        assert name in stages


def test_who_reaches_whom() -> None:
    """Services reach each other if they share a network, and what is outside if one of theirs is not internal."""
    services: dict[str, list[str]] = {}
    networks: dict[str, dict[str, bool]] = {}
    for file in FILES:
        content = yaml.safe_load(file.read_text())
        found = content["services"].items()
        services |= {name: service["networks"] for name, service in found if "networks" in service}
        networks |= {name: network or {} for name, network in content["networks"].items()}

    def reached(service: str) -> set[str]:
        return {name for name, others in services.items() if name != service and set(others) & set(services[service])}

    def has_way_out(service: str) -> bool:
        return any(not networks[name].get("internal") for name in services[service])

    runners = {"worker", "long-worker"}
    assert set(networks) == {name for names in services.values() for name in names}
    for name in runners:
        assert reached(name) - runners == {"redis", "postgres", "scheduler"}
        assert has_way_out(name)
    assert not has_way_out("scheduler")
    assert reached("prometheus") == {"rq-exporter", "alertmanager", "grafana"}
    assert reached("dashboard") == {"redis", "rq-exporter"}


def test_no_file_needs_a_registry_to_be_read() -> None:
    """A `# syntax=` line makes the builder fetch its frontend."""
    for path in [*ROOT.glob("services/**/Dockerfile"), *ROOT.glob("deploy/**/Dockerfile")]:
        assert not re.search(r"^#\s*syntax\s*=", path.read_text(), re.MULTILINE | re.IGNORECASE), path


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command")
@pytest.mark.parametrize("files", [FILES[-1:], FILES[:1] + FILES[-1:]], ids=["alone", "with monitoring"])
@pytest.mark.parametrize("profile", ["", "postgres"])
def test_compose_reads_the_files(files: list[Path], profile: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RQSTACK_SECRET_KEY=a-key\n")
    command = ["docker", "compose", "--project-directory", str(tmp_path)]
    command += [part for path in sorted(files, key=lambda path: len(path.name)) for part in ("--file", str(path))]
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose")
    profiles = ["--profile", profile] if profile else []
    done = subprocess.run([*command, *profiles, "config", "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr

    (tmp_path / ".env").unlink()
    done = subprocess.run([*command, "config", "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert 'run "make setup" first' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
