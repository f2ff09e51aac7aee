"""`rqstack trigger`: enqueues a job from the command line."""

from __future__ import annotations

import json
from typing import Any

import click

from rqstack.cli.output import echo, json_option, print_json
from rqstack.errors import InvalidJob
from rqstack.transport import keys

WORD_COUNT = "wordcount.tasks.count_words_at_url"


@click.command()
@click.argument("task", required=False)
@click.argument("arguments", nargs=-1)
@click.option("--url", help="Count the words of this page (the task project `wordcount`).")
@click.option("--kw", "keywords", multiple=True, metavar="NAME=VALUE", help="A keyword argument; may be repeated.")
@click.option("--queue", "-q", help="Default: the task's own.")
@json_option
def trigger(
    task: str | None,
    arguments: tuple[str, ...],
    url: str | None,
    keywords: tuple[str, ...],
    queue: str | None,
    as_json: bool,
) -> None:
    """Enqueue a job of TASK, and print its id on the last line.

    TASK is a full name (`wordcount.tasks.count_words_at_url`) or a unique end of it (`count_words_at_url`). An argument
    is parsed as JSON if it is valid JSON, else it is a string; '"5"' is the string 5. Put -- before negative numbers.
    """
    if (task is None) == (url is None):
        raise click.UsageError("Give either a TASK or --url.")
    if url is not None:
        task = WORD_COUNT
    from rqstack.cli.queues import check_queues
    from rqstack.registry.discovery import autodiscover
    from rqstack.registry.preload import preload
    from rqstack.registry.registry import registry
    from rqstack.transport.client import connect

    settings = preload()
    args = [url] if url is not None else [parse_value(text) for text in arguments]
    kwargs = parse_keywords(keywords)
    autodiscover(settings)
    registered = registry.get(str(task))
    name = queue or registered.options.queue
    with connect(settings) as connection:
        if queue is not None:
            check_queues([queue], connection, settings, {each.options.queue for each in registry})
        job = registered.enqueue(args, kwargs, connection=connection, **({"queue": queue} if queue else {}))
        listened = connection.scard(keys.QUEUE_WORKERS + name)
    if as_json:
        print_json({"id": job.id, "task": registered.name, "queue": name})
        return
    echo(f"Enqueued {registered.name} on the queue {name}.", err=True)
    if not listened:
        echo(f"No worker listens to {name} now, so the job waits.", err=True)
    echo(job.id)


def parse_value(text: str) -> Any:
    """Parse an argument of the command line: JSON, else a string.

    Raises:
        InvalidJob: It starts like a JSON list, object or string, but is not valid JSON.
    """
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except ValueError as error:
        if text[:1] in ("[", "{", '"'):
            raise InvalidJob(f'{text!r} is not valid JSON: {error}. A string must not start with [, {{ or ".') from None
        return text


def parse_keywords(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse keyword arguments such as ('n=1', 'name=word').

    Raises:
        InvalidJob: A pair is not NAME=VALUE, or a name is repeated.
    """
    kwargs: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise InvalidJob(f"--kw {pair!r} is not NAME=VALUE.")
        if name in kwargs:
            raise InvalidJob(f"--kw {name} is given twice.")
        kwargs[name] = parse_value(value)
    return kwargs


def _reject_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
