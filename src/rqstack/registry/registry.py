"""The register of tasks: which names a worker may run, and what each stands for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, Protocol

from rqstack.errors import UnknownTask


class Registered(Protocol):
    """A task, as far as the registry needs it."""

    @property
    def name(self) -> str:
        """RQ's dotted path, `module.qualname`."""

    @property
    def func(self) -> Callable[..., Any]:
        """The user's function as it was written."""

    @property
    def body(self) -> Callable[..., Any]:
        """The callable for workers: the function, wrapped as the task's options ask for."""


class Registry:
    """Tasks by name. Look-ups are one dictionary access: workers make one for each job."""

    def __init__(self) -> None:
        self._tasks: dict[str, Any] = {}
        self._bodies: dict[str, Callable[..., Any]] = {}

    def register(self, task: Registered) -> None:
        """Add a task.

        Raises:
            ValueError: Another task has this name. Executing the same definition again (`importlib.reload`, a module
                whose first import failed, a cell of a notebook) replaces it instead.
        """
        known = self._tasks.get(task.name)
        if known is not None and not _same_definition(known.func, task.func):
            raise ValueError(
                f"two tasks are named {task.name}: {_where(known.func)} and {_where(task.func)}. Rename one."
            )
        self._tasks[task.name] = task
        self._bodies[task.name] = task.body

    def forget(self, module: str) -> None:
        """Remove the tasks that a module declared, where its import failed half-way."""
        for name in [name for name, task in self._tasks.items() if task.func.__module__ == module]:
            del self._tasks[name], self._bodies[name]

    def get(self, name: str) -> Any:
        """The task of a name: its dotted path, or the end of one where only one task has that end.

        Raises:
            UnknownTask: None has it, or several do; the message lists near names.
        """
        if (task := self._tasks.get(name)) is not None:
            return task
        ends = [known for known in self._tasks if known.endswith(f".{name}")]
        if len(ends) == 1:
            return self._tasks[ends[0]]
        if ends:
            raise UnknownTask(
                f"{name!r} is the end of {len(ends)} tasks: {', '.join(sorted(ends))}. Write the whole name."
            )
        raise UnknownTask(self._unknown(name))

    def body(self, name: str) -> Callable[..., Any] | None:
        """The callable for workers of a task, or None if no task has this name."""
        return self._bodies.get(name)

    def knows_package(self, name: str) -> bool:
        """Whether a dotted name is of a package that declares tasks; rqstack's own do not count."""
        package = name.partition(".")[0]
        return package != "rqstack" and any(known.partition(".")[0] == package for known in self._tasks)

    def names(self) -> list[str]:
        """The names of all tasks, sorted."""
        return sorted(self._tasks)

    def _unknown(self, name: str) -> str:
        near = get_close_matches(name, self._tasks, n=3, cutoff=0.5)
        ends = self._ends()
        near += [ends[end] for end in get_close_matches(name.rpartition(".")[2], ends, n=3, cutoff=0.6)]
        found = ", ".join(dict.fromkeys(near))
        hint = f"Did you mean {found}?" if found else "`rqstack tasks list` shows those that are."
        return f"no task named {name!r} is registered. {hint}"

    def _ends(self) -> dict[str, str]:
        return {name.rpartition(".")[2]: name for name in self._tasks}

    def __iter__(self) -> Iterator[Any]:
        return (self._tasks[name] for name in self.names())

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks


def _same_definition(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    before, after = getattr(old, "__code__", None), getattr(new, "__code__", None)
    if before is None or after is None:
        return old is new
    if new.__module__ == "__main__":
        return True
    if before.co_filename != after.co_filename:
        return False
    # A module that is executed afresh has new globals; one that is reloaded keeps them, and its lines.
    executed_again = getattr(old, "__globals__", None) is not getattr(new, "__globals__", None)
    return executed_again or before.co_firstlineno == after.co_firstlineno


def _where(func: Callable[..., Any]) -> str:
    code = getattr(func, "__code__", None)
    if code is not None:
        return f"{code.co_filename}:{code.co_firstlineno}"
    return str(getattr(sys.modules.get(func.__module__), "__file__", func.__module__))


registry = Registry()
"""The tasks of this process."""
