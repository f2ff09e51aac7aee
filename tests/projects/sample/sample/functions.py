"""A function that is no task, as RQ's own worker runs it."""


def double(x: int) -> int:
    return 2 * x
