"""Redis refuses a worker's counts: each of its commands gets an error, and the jobs go on."""

from __future__ import annotations

from rqstack.transport import keys
from support.worker_site import Site


def test_refused_counts_keep_no_job_from_running_once(site: Site) -> None:
    """An idle horse sends its counts together. A reply that it left unread would be taken for that of a later call."""
    site.add_project()
    site.redis.set(keys.METRICS, "no hash")
    site.worker("-n", "1")
    site.until_idle(1)
    queue = site.queue()
    ids = [f"job{number}" for number in range(6)]
    for job_id in ids:
        queue.enqueue("shop.tasks.give", job_id=job_id, result_ttl=500)
        site.until_ended(job_id)
        site.until_idle(1)
    assert {job_id: site.status(job_id) for job_id in ids} == dict.fromkeys(ids, "finished")
    assert {job_id: len(site.job(job_id).results()) for job_id in ids} == dict.fromkeys(ids, 1)
    (worker,) = site.workers()
    assert worker.successful_job_count == len(ids)
    assert "trying again" not in site.output()
    assert "has failed" not in site.output()
