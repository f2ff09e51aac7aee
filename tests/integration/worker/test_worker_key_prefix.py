"""RQ_KEY_PREFIX: all that reads or writes Redis uses the prefix that RQ does."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from redis import Redis

from rqstack.transport import keys
from support.worker_site import Site


def python(site: Site, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the environment of a site."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=site.environment, cwd=site.folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("prefix", ["shop-7", "{jobs}", "a.b:rq"])
def test_a_job_from_end_to_end(site: Site, prefix: str) -> None:
    site.environment["RQ_KEY_PREFIX"] = prefix
    site.add_project()
    redis: Redis = site.redis
    site.worker("high", "default", "--processes", "2", "--name", "pair", "--with-scheduler")

    def run(*arguments: str) -> str:
        return str(site.run(*arguments).stdout)

    site.until(lambda: site.run("health", "--worker", check=False).returncode == 0, "a healthy worker")
    site.until(lambda: site.run("health", "--scheduler", check=False).returncode == 0, "a healthy scheduler")
    now = run("trigger", "shop.tasks.double", "2").split()[-1]
    python(
        site,
        "from datetime import timedelta; from rqstack.enqueue import get_queue;"
        "get_queue('default').enqueue_in(timedelta(seconds=1), 'shop.tasks.double', 2, job_id='soon')",
    )
    run("wait", now, "soon", "--timeout", "30")
    for name in (now, "soon"):
        assert json.loads(run("result", name, "--json"))["value"] == 4
    bad = run("trigger", "shop.tasks.fail").split()[-1]
    assert site.run("wait", bad, "--timeout", "30", check=False).returncode == 1
    info = json.loads(run("info", "--json"))
    assert {worker["name"] for worker in info["workers"]} == {"pair-1", "pair-2"}
    (default,) = [queue for queue in info["queues"] if queue["name"] == "default"]
    assert (default["finished"], default["failed"], default["workers"]) == (2, 1, 2)
    assert "pair-1" in site.rq("info", "--raw")
    names = [key.decode() for key in redis.scan_iter()]
    assert f"{prefix}:job:{now}" in names
    assert f"{prefix}stack:metrics" in names
    assert [name for name in names if not name.startswith((f"{prefix}:", f"{prefix}stack:"))] == []


@pytest.mark.parametrize("prefix", ["", "app%s", 'team"x', "rq\n", "é", "a b"])
def test_a_prefix_that_rq_refuses_is_refused(prefix: str, site: Site) -> None:
    site.environment["RQ_KEY_PREFIX"] = prefix
    for module in ("rq", keys.__name__):
        done = python(site, f"import {module}")
        assert done.returncode != 0
        assert "RQ_KEY_PREFIX" in done.stderr
    done = site.run("info", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: RQ_KEY_PREFIX: {prefix!r} is not allowed. Use letters, digits and _ . : - {{ }} only.\n"
    )


def test_the_rights_of_redis_s_users_use_it(site: Site) -> None:
    site.environment["RQ_KEY_PREFIX"] = "{jobs}"
    rules = python(site, "from rqstack.stack.acl import RULES; print(RULES['worker'])").stdout
    assert "~{jobs}:* ~{jobs}stack:* resetchannels &{jobs}:pubsub:* &{jobs}stack:*" in rules
