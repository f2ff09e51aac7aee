"""The scripts are in Redis before a horse needs them; and a worker lives where they are not, or may not be."""

from __future__ import annotations

from typing import Any

from rqstack.worker.scripts import CLAIM, SETTLE
from support.redis_server import RedisServer
from support.worker_site import Site


def test_a_worker_brings_its_scripts_before_the_first_job(site: Site) -> None:
    site.add_project()
    site.redis.script_flush()
    site.worker("default", "--processes", "2")
    site.until_idle(2)
    assert site.redis.script_exists(CLAIM.sha, SETTLE.sha) == [True, True]
    site.redis.script_flush()
    site.queue().enqueue("shop.tasks.give", job_id="later")
    site.until_ended("later")
    assert site.status("later") == "finished"


def test_a_worker_brings_them_again_to_a_redis_that_has_lost_all(site: Site) -> None:
    site.add_project()
    site.worker("default")
    site.until_idle(1)
    site.redis.script_flush()
    site.redis.flushall()
    site.until(lambda: site.redis.script_exists(CLAIM.sha, SETTLE.sha) == [True, True], "the scripts")


def test_a_worker_brings_them_again_to_a_redis_that_has_restarted(site: Site, own_redis: RedisServer) -> None:
    """Redis keeps its data then, and no script."""
    site.add_project()
    site.worker("default", REDIS_URL=own_redis.url)
    client = own_redis.client()
    site.until(lambda: client.script_exists(SETTLE.sha) == [True], "the scripts")
    own_redis.kill()
    own_redis.start()
    site.until(lambda: client.script_exists(CLAIM.sha, SETTLE.sha) == [True, True], "the scripts")


def test_a_user_who_may_not_load_scripts_can_work(site: Site) -> None:
    site.add_project()
    everything: Any = {"keys": ["*"], "channels": ["*"], "commands": ["+@all", "-script"]}
    site.redis.acl_setuser("bob", enabled=True, passwords=["+secret"], **everything)
    try:
        site.redis.script_flush()
        site.environment["REDIS_URL"] = site.server.url.replace("redis://", "redis://bob:secret@")
        site.worker("default")
        site.queue().enqueue("shop.tasks.give", job_id="refused")
        site.until_ended("refused")
        assert site.status("refused") == "finished"
        assert site.redis.acl_log()[0]["object"].startswith("script")
    finally:
        site.redis.acl_deluser("bob")
