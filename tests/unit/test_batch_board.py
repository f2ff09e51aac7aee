"""What a supervisor sees of a batch while its horse writes."""

from __future__ import annotations

import os

from rqstack.worker.batch_board import BatchBoard
from rqstack.worker.outcome import Outcome

SIZE = 8
BATCHES = 10_000


def write_batches(board: BatchBoard) -> None:
    for number in range(1, BATCHES):
        board.start(0, f"{number:030x}01", SIZE, 1.0)
        for place in range(1, SIZE):
            board.note(0, Outcome("finished", f"job-{place}", f"{number:030x}{place:02x}", "default"), 1.0)
            board.begin(0, place, 1.0)
        board.end(0)


def test_a_batch_is_never_seen_half_written() -> None:
    """A job seen as not begun is put back: if it has ended, its outcome must be seen as well."""
    board = BatchBoard(1)
    child = os.fork()
    if not child:
        try:
            write_batches(board)
        finally:
            os._exit(0)
    seen, wrong = 0, []
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        batch = board.batch(0)
        outcomes = sum(1 for _ in board.outcomes(0))
        if not batch.size or board.batch(0).call_id != batch.call_id or not board.batch(0).size:
            continue
        seen += 1
        if batch.began != 1.0 or outcomes < batch.place or len(batch.not_begun()) != SIZE - 1 - batch.place:
            wrong.append((batch, outcomes))
    assert seen
    assert wrong == []
