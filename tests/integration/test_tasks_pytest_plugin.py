"""The pytest plugin, in a pytest of its own, as a user's project has it."""

from __future__ import annotations

import shutil

import pytest

from support.paths import MODULES
from support.redis_server import RedisServer

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    shutil.copy2(MODULES / "mine.py", pytester.path)
    pytester.syspathinsert()
    monkeypatch.setenv("RQSTACK_HOME", str(pytester.path))
    return pytester


def run(project: pytest.Pytester, source: str) -> pytest.RunResult:
    project.makepyfile(test_mine=f"import pytest\nimport mine\n{source}")
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist", "-q")


def test_run_jobs_runs_what_was_enqueued_and_gives_the_jobs(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_all(run_jobs, enqueued):
    first = mine.send.delay("ann")
    second = mine.send.delay("bob", subject="bye")
    third = mine.waits.delay(1)
    waiting = enqueued(mine.send)
    assert [(each.name, each.args, each.kwargs, each.queue) for each in waiting] == [
        ("mine.send", ("ann",), {}, "mail"), ("mine.send", ("bob",), {"subject": "bye"}, "mail")]
    assert [each.job.id for each in enqueued(queue="default")] == [third.id]
    ran = run_jobs()
    assert {job.id: job.return_value() for job in ran} == {
        first.id: "hello, ann", second.id: "bye, bob", third.id: 2}
    assert enqueued() == []

def test_the_next_test_starts_empty(enqueued):
    assert enqueued() == []
""",
    )
    result.assert_outcomes(passed=2)


def test_a_command_that_enqueues_itself_runs_to_its_end(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_it(run_jobs):
    mine.churn(3)
    assert mine.ran == []
    assert len(run_jobs()) == 4
    assert mine.ran == [3, 2, 1, 0]
""",
    )
    result.assert_outcomes(passed=1)


def test_a_failing_job_fails_the_test_with_its_traceback_unless_it_is_asked_not_to(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_checked(run_jobs):
    mine.broken.delay(0)
    run_jobs()

def test_unchecked(run_jobs):
    job = mine.broken.delay(0)
    assert [each.id for each in run_jobs(check=False)] == [job.id]
    assert job.get_status() == "failed"
""",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: 1 of 1 jobs failed.*", "*ZeroDivisionError: division by zero*"])


def test_scheduled_jobs_and_retries_run_when_asked_for(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
def test_it(run_jobs, enqueued):
    mine.flaky.delay()
    mine.send.schedule("ann", in_=3600)
    assert len(run_jobs()) == 1
    assert [(each.name, each.at is not None) for each in enqueued()] == [("mine.flaky", True), ("mine.send", True)]
    ran = run_jobs(scheduled=True)
    assert sorted(job.func_name for job in ran) == ["mine.flaky", "mine.flaky", "mine.send"]
    assert all(job.is_finished for job in ran[-1:])
""",
    )
    result.assert_outcomes(passed=1)


def test_a_redis_that_is_not_empty_is_refused_and_left_alone(project: pytest.Pytester, own_redis: RedisServer) -> None:
    client = own_redis.client()
    client.set("precious", "1")
    result = run(
        project,
        f"""
@pytest.fixture(scope="session")
def rqstack_redis_url():
    return {own_redis.url!r}

def test_it(run_jobs):
    run_jobs()
""",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*is not empty. Give the tests their own database.*"])
    assert client.get("precious") == b"1"
    client.close()
