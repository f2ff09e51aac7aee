"""New task code without a restart: a release is switched, a checkout moves, a file is saved (E10)."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

CODE = '''
import os, time
from rq import get_current_job
from rqstack import task
from shop.version import VERSION

@task
def version(pause=0):
    """Which code runs, at the beginning and at the end."""
    before = VERSION
    time.sleep(pause)
    from shop import version
    return before, version.VERSION, os.getpid()
@task
def hold():
    job = get_current_job()
    job.connection.rpush("holding:" + job.id, os.getpid())
    job.connection.blpop("release:" + job.id, 60)
    return VERSION
@task
def note():
    job = get_current_job()
    job.meta["note"] = "mine"
    job.save_meta()
    return VERSION
'''


class Releases:
    """Releases of one project beside each other, and the link to the one in use."""

    def __init__(self, site: Any) -> None:
        self.site = site
        self.root = site.folder / "volume"

    def write(self, version: int, code: str = CODE) -> str:
        folder = self.root / "releases" / f"r{version}"
        self.site.tasks(code, root=folder)
        (folder / "shop" / "shop" / "version.py").write_text(f"VERSION = {version}\n")
        return folder.name

    def switch(self, name: str) -> None:
        """As a deploy does: at once."""
        link = self.root / "next"
        link.symlink_to(Path("releases") / name)
        link.replace(self.root / "current")


@pytest.fixture
def releases(site: Any) -> Releases:
    made = Releases(site)
    made.switch(made.write(1))
    site.environment["RQSTACK_TASKS_PATH"] = str(made.root / "current")
    return made


def enqueue(site: Any, name: str, job_id: str, *args: Any, **options: Any) -> None:
    site.queue().enqueue(f"shop.tasks.{name}", args=args, job_id=job_id, **options)


def value(site: Any, job_id: str) -> Any:
    site.until_ended(job_id)
    assert site.status(job_id) == "finished", site.job(job_id).latest_result().exc_string
    return site.job(job_id).return_value()


def until_version(site: Any, version: int) -> None:
    """Wait until both horses have been replaced: jobs are run by new code."""
    numbers = iter(range(10_000))

    def is_new() -> bool:
        job_id = f"ask-{version}-{next(numbers)}-{os.urandom(4).hex()}"
        enqueue(site, "version", job_id)
        return bool(value(site, job_id)[0] == version)

    site.until(is_new, f"version {version}")


def test_a_switch_a_refusal_and_a_rollback(site: Any, releases: Releases) -> None:
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
    releases.switch(releases.write(3, CODE + "\nimport nothing_of_that_name\n"))
    site.until(lambda: "is refused" in site.output()[len(before) :], "the refusal")
    said = next(line for line in site.output()[len(before) :].splitlines() if "is refused" in line)
    assert "nothing_of_that_name" in said
    assert "shop.tasks" in said
    enqueue(site, "version", "still")
    assert value(site, "still")[0] == 2

    releases.switch("r1")
    until_version(site, 1)
    assert process.poll() is None
    assert site.stop(process) == 0, site.output()


def fill(site: Any, names: list[str]) -> None:
    queue = site.queue()
    queue.enqueue_many([queue.prepare_data("shop.tasks.version", (0.004,), job_id=name) for name in names])


def test_jobs_under_load_run_wholly_on_one_release(site: Any, releases: Releases) -> None:
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


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_that_moves(site: Any) -> None:
    module = site.tasks(CODE)
    version = module.parent / "version.py"
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


def test_a_saved_file(site: Any) -> None:
    module = site.tasks(CODE)
    version = module.parent / "version.py"
    version.write_text("VERSION = 1\n")
    process = site.worker("default", "--reload")
    until_version(site, 1)
    version.write_text("VERSION = 22\n")
    until_version(site, 22)
    module.write_text(CODE + "\nthis is no python\n")
    site.until(lambda: "is refused" in site.output(), "the refusal")
    enqueue(site, "version", "still")
    assert value(site, "still")[0] == 22
    module.write_text(CODE)
    version.write_text("VERSION = 333\n")
    until_version(site, 333)
    assert site.stop(process) == 0
