"""RQ's own worker, in any thread."""

from __future__ import annotations

from rq import SimpleWorker
from rq.timeouts import TimerDeathPenalty


class QuickWorker(SimpleWorker):
    """RQ's worker without signals, commands and a log of results."""

    death_penalty_class = TimerDeathPenalty
    log_result_lifespan = False

    def _install_signal_handlers(self) -> None:
        pass

    def subscribe(self) -> None:
        pass

    def unsubscribe(self) -> None:
        pass
