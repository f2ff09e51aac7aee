"""Sends a job's webhooks: those that are signed, and others to the hosts that RQSTACK_WEBHOOK_HOSTS names."""

from __future__ import annotations

import json
import logging
import math
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rq.webhook import Webhook

from rqstack.outbound import RequestFailed, open_url
from rqstack.security.webhooks import SIGNATURE, is_signed
from rqstack.settings import Settings, get_settings
from rqstack.worker.horse.lazy_job import STORED

if TYPE_CHECKING:
    from rq.job import Job

log = logging.getLogger("rq.worker")

_MOST = 64 * 1024
"""Bytes above which the webhooks of a job are not read."""

UNSIGNED_SECONDS = 30.0
"""For all unsigned webhooks of a job: whoever writes to Redis chooses their number and their timeouts, and the worker
takes no other job meanwhile."""


def send_webhooks(job: Job, stored: bytes, signature: bytes | None, status: str, text: str = "") -> None:
    """Send the webhooks of a job that has ended. Failures are logged, as by RQ.

    Args:
        job: The job.
        stored: Its webhooks, as in its record.
        signature: Their signature, as in its record.
        status: finished or failed.
        text: The traceback.
    """
    settings = get_settings()
    trusted = is_signed(job.id, stored, signature) or _trusts_unsigned(settings)
    try:
        if len(stored) > _MOST:
            raise ValueError(f"they have {len(stored)} bytes")
        webhooks = [Webhook.from_dict(data) for data in json.loads(stored)]
    except Exception as error:
        log.warning("Job %s: its webhooks cannot be read, so none is sent: %s", job.id, str(error)[:200])
        return
    refused = []
    end = math.inf if trusted else time.monotonic() + UNSIGNED_SECONDS
    for webhook in webhooks:
        if webhook.job_status == status:
            host = urlsplit(webhook.url).hostname or ""
            if trusted or host in settings.webhook_hosts:
                left = end - time.monotonic()
                if left <= 0:
                    log.warning("Job %s: its other webhooks are not sent: unsigned ones have taken too long", job.id)
                    break
                _send(webhook, job, text, min(webhook.timeout, left))
            else:
                refused.append(host)
    if refused:
        log.warning(
            "Job %s: webhooks to %s are not sent, because they are not signed. Enqueue the job by rqstack with the "
            "workers' RQSTACK_SECRET_KEY, or add the hosts to RQSTACK_WEBHOOK_HOSTS.",
            job.id,
            ", ".join(repr(host[:100]) for host in refused[:5]),
        )


def send_stored_webhooks(job: Job, status: str, text: str) -> None:
    """Send the webhooks of a job that was read from Redis, as `send_webhooks`.

    Args:
        job: Its attribute `STORED` has its record. One without it has no webhooks.
    """
    record = vars(job).get(STORED, {})
    if stored := record.get(b"webhooks"):
        send_webhooks(job, stored, record.get(SIGNATURE.encode()), status, text)


def _trusts_unsigned(settings: Settings) -> bool:
    """Whether this worker runs any code that stands in Redis, so that a request is nothing more."""
    return settings.allow_unregistered or (settings.serializer == "pickle" and not settings.secret_keys())


def _send(webhook: Webhook, job: Job, text: str, seconds: float) -> None:
    headers, content = dict(webhook.headers or {}), None
    try:
        if webhook.method == "POST":
            headers = {"Content-Type": "application/json"} | headers
            content = json.dumps(webhook.get_payload(job, exc_string=text)).encode()
        with open_url(
            webhook.url,
            method=webhook.method,
            headers=headers,
            content=content,
            seconds=seconds,
            same_host=True,
        ) as response:
            if response.status_code >= 400:
                host = urlsplit(webhook.url).hostname
                log.warning("Job %s: its webhook to %r has failed: status %d", job.id, host, response.status_code)
    except RequestFailed as error:
        log.warning("Job %s: its webhook has failed: %s", job.id, error)
    except Exception:  # headers that are no text, say
        log.warning("Job %s: its webhook has failed", job.id, exc_info=True)
