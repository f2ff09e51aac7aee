"""A job's description where its task gives none: the call, with the names of its arguments in place of their values.

Descriptions are shown in job lists, on the jobs page and in logs, to whoever may look there; RQ writes the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from rq.utils import as_text, truncate_long_string

from rqstack.registry.registry import registry
from rqstack.settings import get_settings

if TYPE_CHECKING:
    from rqstack.enqueue.task_protocol import EnqueuedTask

_LONGEST = 75  # RQ's Job.get_call_string cuts longer values
_UNKNOWN = "…"
_HIDDEN = "***"


def describe(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The description of a call.

    Args:
        name: The function's dotted path. Of a registered task the names of positional arguments are known.
    """
    task = registry.get(name) if name in registry else None
    if not get_settings().show_arguments:
        return _call_with_names(task, name, len(args), tuple(kwargs))
    secret = frozenset(task.options.secret) if task is not None else frozenset()
    names = _names(task, len(args)) if secret else [_UNKNOWN] * len(args)
    shown = [_value(value, hidden=known in secret) for known, value in zip(names, args, strict=True)]
    shown += sorted(f"{each}={_value(value, hidden=each in secret)}" for each, value in kwargs.items())
    return f"{name}({', '.join(shown)})"


@lru_cache(maxsize=1024)
def _call_with_names(task: EnqueuedTask | None, name: str, positional: int, keywords: Iterable[str]) -> str:
    return f"{name}({', '.join([*_names(task, positional), *sorted(keywords)])})"


def _names(task: EnqueuedTask | None, count: int) -> list[str]:
    """The names of positional arguments; those of `*args` all have its name."""
    found: list[str] = []
    for parameter in task.signature.parameters.values() if task is not None else ():
        if parameter.kind == Parameter.VAR_POSITIONAL:
            found += [parameter.name] * (count - len(found))
        elif parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            found.append(parameter.name)
    return [*found[:count], *[_UNKNOWN] * (count - len(found))]


def _value(value: Any, *, hidden: bool) -> str:
    return _HIDDEN if hidden else str(as_text(truncate_long_string(repr(value), _LONGEST)))
