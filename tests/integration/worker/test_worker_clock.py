"""Workers whose clock is wrong, or jumps: libfaketime moves it, for them alone."""

from __future__ import annotations

import ctypes.util
import time
from pathlib import Path

import pytest

from support.worker_site import Site


def _library() -> str | None:
    found = [str(path) for path in Path("/usr/lib").glob("**/faketime/libfaketime.so.1")]
    return found[0] if found else ctypes.util.find_library("faketime")


LIBRARY = _library()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian's package libfaketime)")


def clock(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is off."""
    return {"LD_PRELOAD": str(LIBRARY), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}


def moving_clock(site: Site, offset: str) -> dict[str, str]:
    """The environment of a process whose clock jumps when the file is written anew."""
    file = site.folder / "clock"
    file.write_text(offset)
    given = clock(offset) | {"FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    del given["FAKETIME"]
    return given


def hold(site: Site, name: str) -> None:
    site.queue().enqueue("shop.tasks.hold_and_tell_time", job_id=name)
    site.until(lambda: site.redis.llen(f"holding:{name}"), f"{name} to run")


@pytest.mark.parametrize("offset", ["-2h", "+2h"])
def test_a_clock_that_is_off(site: Site, offset: str) -> None:
    site.add_project()
    process = site.worker("default", **clock(offset))
    hold(site, "held")
    site.until(lambda: site.redis.zcard("rqstack:supervisors"), "the supervisor")
    # What any RQ worker with a right clock does: it fails jobs that seem to be abandoned.
    site.queue().started_job_registry.cleanup()
    assert site.status("held") == "started"
    site.redis.rpush("release:held", 1)
    site.until_ended("held")
    assert site.status("held") == "finished"
    assert abs(site.job("held").return_value() - time.time()) > 3600, "the clock was not moved"
    assert site.status("held") == "finished"
    assert site.stop(process) == 0


def test_a_worker_whose_clock_is_ahead_spares_the_jobs_of_others(site: Site) -> None:
    """RQ's maintenance goes by the clock of whoever does it."""
    site.add_project()
    right = site.worker("default", "--name", "right")
    hold(site, "held")
    wrong = site.worker("other", "default", "--name", "wrong", **clock("+2h"))
    site.until(lambda: site.redis.exists("rq:worker:wrong"), "the other worker")
    # It looks after registries once it has been there for as long as the others may be silent.
    site.until(lambda: "clock" in site.output() or "cleaning" in site.output().partition("Worker wrong")[2], "its look")
    site.queue().enqueue("shop.tasks.give", 1, job_id="normal")
    site.until_ended("normal")
    assert site.status("held") == "started", site.output()
    site.redis.rpush("release:held", 1)
    site.until_ended("held")
    assert site.status("held") == "finished"
    assert site.stop(wrong) == 0
    assert site.stop(right) == 0


@pytest.mark.parametrize(("before", "after"), [("+0", "-3h"), ("+0", "+3h")])
def test_a_clock_that_jumps_while_a_job_runs(site: Site, before: str, after: str) -> None:
    site.add_project()
    process = site.worker("default", **moving_clock(site, before))
    hold(site, "held")
    # Not while RQ cleans: it would read the one clock before the jump, and the other after it.
    cleaning = "rq:clean_registries:default"
    site.until(lambda: "cleaning registries" in site.output() and not site.redis.exists(cleaning), "the first cleaning")
    (site.folder / "clock").write_text(after)
    beat = site.redis.zscore("rqstack:supervisors", site.redis.zrange("rqstack:supervisors", 0, 0)[0])
    site.until(
        lambda: site.redis.zscore("rqstack:supervisors", site.redis.zrange("rqstack:supervisors", 0, 0)[0]) > beat + 1,
        "heartbeats to go on",
    )
    assert site.status("held") == "started", site.output()
    site.redis.rpush("release:held", 1)
    for number in range(20):
        site.queue().enqueue("shop.tasks.give", number, job_id=f"after-{number}")
    site.until_ended("held", *(f"after-{number}" for number in range(20)))
    assert [site.job(f"after-{number}").return_value() for number in range(20)] == list(range(20))
    assert abs(site.job("held").return_value() - time.time()) > 3600, "the clock did not jump"
    assert site.stop(process) == 0
