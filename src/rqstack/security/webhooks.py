"""Signs a job's webhooks, and tells whether a job's webhooks were signed.

RQ stores them as JSON in the job's hash. The signature is a field of its own there, so RQ's workers read the rest as it
is; RQ's own producers write none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rqstack.security import get_signer

if TYPE_CHECKING:
    from rq.job import Job

SIGNATURE = "rqstack_webhooks_signature"
"""Field of a job's hash: the signature of its id and its webhooks."""


def sign_webhooks(job: Job) -> None:
    """Let a job that is about to be enqueued store a signature with its webhooks, if a key is set.

    Args:
        job: Its id may still be unknown.
    """
    signer = get_signer("webhook") if job.webhooks else None
    if signer is None:
        return
    to_dict = type(job).to_dict

    def signed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        fields: dict[str, Any] = to_dict(job, *args, **kwargs)
        if job.webhooks:
            fields[SIGNATURE] = signer.signature(_signed_bytes(job.id, fields["webhooks"].encode())).hex()
        return fields

    # Each way of enqueueing a job, RQ's own included, stores what this method returns.
    vars(job)["to_dict"] = signed


def is_signed(job_id: str, webhooks: bytes, signature: bytes | None) -> bool:
    """Whether a job's webhooks were signed by a holder of the key.

    Args:
        webhooks: As stored.
        signature: As stored.
    """
    signer = get_signer("webhook")
    if signer is None or not signature:
        return False
    try:
        given = bytes.fromhex(signature.decode("ascii"))
    except ValueError:
        return False
    return signer.is_valid(_signed_bytes(job_id, webhooks), given)


def _signed_bytes(job_id: str, webhooks: bytes) -> bytes:
    # No id has a zero byte.
    return job_id.encode() + b"\0" + webhooks
