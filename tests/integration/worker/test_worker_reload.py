"""New task code without a restart: a release is switched, a checkout moves, a file is saved."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.git import git
from support.projects import copy_project
from support.worker_site import Site


class Releases:
    """Releases of one project beside each other, and the link to the one in use."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.root = site.folder / "volume"

    def write(self, version: int, more: str = "") -> str:
        """Write a release, with more code at the end of its tasks."""
        folder = self.root / "releases" / f"r{version}"
        package = copy_project("versioned", folder)
        (package / "version.py").write_text(f"VERSION = {version}\n")
        with (package / "tasks.py").open("a") as file:
            file.write(more)
        return folder.name

    def switch(self, name: str) -> None:
        """As a deploy does: at once."""
        link = self.root / "next"
        link.symlink_to(Path("releases") / name)
        link.replace(self.root / "current")


@pytest.fixture
def releases(site: Site) -> Releases:
    made = Releases(site)
    made.switch(made.write(1))
    site.environment["RQSTACK_TASKS_PATH"] = str(made.root / "current")
    return made


def enqueue(site: Site, name: str, job_id: str, *args: Any, **options: Any) -> None:
    site.queue().enqueue(f"versioned.tasks.{name}", args=args, job_id=job_id, **options)


def value(site: Site, job_id: str) -> Any:
    site.until_ended(job_id)
    assert site.status(job_id) == "finished", site.job(job_id).latest_result().exc_string
    return site.job(job_id).return_value()


def until_version(site: Site, version: int) -> None:
    """Wait until both horses have been replaced: jobs are run by new code."""
    numbers = iter(range(10_000))

    def is_new() -> bool:
        job_id = f"ask-{version}-{next(numbers)}-{os.urandom(4).hex()}"
        enqueue(site, "version", job_id)
        return bool(value(site, job_id)[0] == version)

    site.until(is_new, f"version {version}")


def test_a_switch_a_refusal_and_a_rollback(site: Site, releases: Releases) -> None:
    process = site.worker("default", "--processes", "2")
    enqueue(site, "hold", "old")
    enqueue(site, "note", "noted", meta={"who": "me"})
    site.until(lambda: site.redis.llen("holding:old"), "the old job")
    assert value(site, "noted") == 1
    assert site.job("noted").meta == {"who": "me", "release": "r1", "note": "mine"}
    releases.switch(releases.write(2))
    until_version(site, 2)
    assert site.status("old") == "started"
    site.redis.rpush("release:old", 1)
    assert value(site, "old") == 1, "a job ends on the code that it began with"
    assert site.job("old").meta == {"release": "r1"}
    enqueue(site, "note", "noted-again", meta={"release": "of a run before"})
    assert value(site, "noted-again") == 2
    assert site.job("noted-again").meta == {"release": "r2", "note": "mine"}

    before = site.output()
    releases.switch(releases.write(3, "\nimport nothing_of_that_name\n"))
    site.until(lambda: "is rejected" in site.output()[len(before) :], "the refusal")
    said = next(line for line in site.output()[len(before) :].splitlines() if "is rejected" in line)
    assert "nothing_of_that_name" in said
    assert "versioned.tasks" in said
    enqueue(site, "version", "still")
    assert value(site, "still")[0] == 2

    releases.switch("r1")
    until_version(site, 1)
    assert process.poll() is None
    assert site.stop(process) == 0, site.output()


def fill(site: Site, names: list[str]) -> None:
    queue = site.queue()
    queue.enqueue_many([queue.prepare_data("versioned.tasks.version", (0.004,), job_id=name) for name in names])


def test_jobs_under_load_run_wholly_on_one_release(site: Site, releases: Releases) -> None:
    process = site.worker("default", "--processes", "2", RQSTACK_MAX_JOBS="40")
    names = [f"job-{number}" for number in range(1000)]
    parts = [names[:250], names[250:500], names[500:750], names[750:]]
    for version, part in enumerate(parts, 1):
        if version > 1:
            releases.switch(releases.write(version))
        middle = len(part) // 2
        fill(site, part[:middle])
        if version > 1:
            until_version(site, version)
        fill(site, part[middle:])
        site.until_ended(part[middle + middle // 2])
    site.until_ended(*names)
    seen = Counter()
    for name in names:
        job = site.job(name)
        assert job.get_status() == "finished", name
        first, last, _ = job.return_value()
        assert first == last, name
        assert job.meta == {"release": f"r{first}"}, name
        assert len(job.results()) == 1, name
        seen[first] += 1
    assert sum(seen.values()) == 1000
    assert set(seen) == {1, 2, 3, 4}
    assert process.poll() is None
    assert site.stop(process) == 0


def test_a_checkout_that_moves(site: Site) -> None:
    package = site.add_project("versioned")
    version = package / "version.py"
    version.write_text("VERSION = 1\n")
    (site.folder / ".gitignore").write_text("*\n!tasks\n!tasks/**\n__pycache__\n")
    git(site.folder, "init", "-q")
    git(site.folder, "add", "tasks")
    git(site.folder, "commit", "-qm", "one")
    process = site.worker("default", "--processes", "2")
    until_version(site, 1)
    version.write_text("VERSION = 22\n")
    enqueue(site, "version", "not-yet")
    assert value(site, "not-yet")[0] == 1, "a saved file alone is no switch"
    git(site.folder, "commit", "-qam", "two")
    until_version(site, 22)
    enqueue(site, "version", "told")
    value(site, "told")
    assert site.job("told").meta["release"] == git(site.folder, "rev-parse", "HEAD")[:12]
    assert process.poll() is None
    assert site.stop(process) == 0


def test_a_saved_file(site: Site) -> None:
    package = site.add_project("versioned")
    version = package / "version.py"
    version.write_text("VERSION = 1\n")
    process = site.worker("default", "--reload")
    until_version(site, 1)
    version.write_text("VERSION = 22\n")
    until_version(site, 22)
    module = package / "tasks.py"
    code = module.read_text()
    module.write_text(code + "\nthis is no python\n")
    site.until(lambda: "is rejected" in site.output(), "the refusal")
    enqueue(site, "version", "still")
    assert value(site, "still")[0] == 22
    module.write_text(code)
    version.write_text("VERSION = 333\n")
    until_version(site, 333)
    assert site.stop(process) == 0
