"""The content of a Redis as a file of commands, in the quoting of `redis-cli`.

One command is one line, so `redis-cli < FILE` loads the file and a diff of two files is readable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from redis import Redis

Command = tuple[bytes, ...]

_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "b": b"\b", "a": b"\a"}
_ESCAPED = {value[0]: f"\\{name}" for name, value in _ESCAPES.items()} | {ord('"'): '\\"', ord("\\"): "\\\\"}
_PLAIN = re.compile(r"[A-Za-z]+")
_TOKEN = re.compile(r'\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"(?=\s|$)|(?P<plain>[^\s"\']+)(?=\s|$))')
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)

_UNIX_TIME = re.compile(rb"[12]\d{9}(\.\d+)?")
_DATE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_DATE_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
_STREAM_ID = re.compile(rb"([12]\d{12})-(\d+)")


# -- lines


def format_command(command: Sequence[bytes]) -> str:
    """A command as one line of ASCII: its name as it is, its arguments in double quotes.

    Raises:
        ValueError: The name is not a word, so `redis-cli` would not read the line as it is meant.
    """
    name = command[0].decode("ascii", "replace")
    if not _PLAIN.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a command.")
    return " ".join([name, *map(_quote, command[1:])])


def parse_command(line: str) -> Command:
    """The command that `format_command` wrote, or that a person typed without single quotes.

    Raises:
        ValueError: A quote is not closed, or is followed by something else than a space.
    """
    parts: list[bytes] = []
    rest = line.strip()
    position = 0
    while position < len(rest):
        match = _TOKEN.match(rest, position)
        if match is None:
            raise ValueError(f"unbalanced quotes in {line!r}.")
        quoted = match["quoted"]
        parts.append(match["plain"].encode() if quoted is None else _unquote(quoted))
        position = match.end()
    if not parts:
        raise ValueError("an empty line is no command.")
    return tuple(parts)


def _quote(argument: bytes) -> str:
    return (
        '"'
        + "".join(_ESCAPED.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in argument)
        + '"'
    )


def _unquote(text: str) -> bytes:
    def value(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return bytes.fromhex(match[1].decode())
        return _ESCAPES.get(match[2].decode("latin-1"), match[2])

    return _ESCAPE.sub(value, text.encode())


def read_file(path: Path) -> list[Command]:
    """The commands of a file."""
    return [parse_command(line) for line in path.read_text("ascii").splitlines()]


def write_file(path: Path, commands: Iterable[Command]) -> None:
    """Write commands to a file, one a line."""
    path.write_text("".join(format_command(command) + "\n" for command in commands), "ascii")


# -- a whole Redis


def dump(client: Redis) -> list[Command]:
    """The commands that make the database of a client again, sorted by key.

    A field, member or item has a command of its own. The last command of a key is its expiry, as what is left of it
    now. Writers should be paused meanwhile (`CLIENT PAUSE … WRITE`).

    Raises:
        ValueError: A key is of a type that is not known here.
    """
    return [command for key in sorted(client.scan_iter(count=1000)) for command in _dump_key(client, key)]


def _dump_key(client: Any, key: bytes) -> Iterator[Command]:
    kind = client.type(key)
    if kind == b"string":
        yield b"SET", key, client.get(key)
    elif kind == b"hash":
        yield from ((b"HSET", key, field, value) for field, value in sorted(client.hgetall(key).items()))
    elif kind == b"list":
        yield from ((b"RPUSH", key, item) for item in client.lrange(key, 0, -1))
    elif kind == b"set":
        yield from ((b"SADD", key, member) for member in sorted(client.smembers(key)))
    elif kind == b"zset":
        rows = client.zrange(key, 0, -1, withscores=True)
        yield from ((b"ZADD", key, _number(score), member) for member, score in rows)
    elif kind == b"stream":
        for entry_id, fields in client.xrange(key):
            yield b"XADD", key, entry_id, *(part for pair in fields.items() for part in pair)
    else:
        raise ValueError(f"{key!r} is a {kind.decode()}, which cannot be written as a command.")
    left = client.pttl(key)
    if left >= 0:
        yield b"PEXPIRE", key, b"%d" % left


def _number(score: float) -> bytes:
    return (str(int(score)) if score.is_integer() else repr(score)).encode()


def load(client: Redis, commands: Iterable[Command]) -> None:
    """Run commands on a Redis, all or nothing."""
    with client.pipeline(transaction=True) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute()


def aged(commands: Iterable[Command], *, recorded_at: float, now: float, age: float = 0.0) -> list[Command]:
    """The same commands, as if they had been recorded `age` seconds before `now`.

    All times are moved by the same whole number of seconds: scores, dates as RQ writes them, Unix times and the ids of
    stream entries. Keys that expire within `age` are left out, as Redis would have dropped them.

    Args:
        commands: What `dump` returned.
        recorded_at: When that was, in Unix seconds.
        now: What Redis's clock says now, in Unix seconds.
        age: Seconds since the recording.
    """
    commands = list(commands)
    shift = round(now - age - recorded_at)
    gone = {command[1] for command in commands if command[0] == b"PEXPIRE" and int(command[2]) <= age * 1000}
    found: list[Command] = []
    for name, key, *arguments in commands:
        if key in gone:
            continue
        if name == b"PEXPIRE":
            found.append((name, key, b"%d" % (int(arguments[0]) - round(age * 1000))))
        elif name == b"SET":
            found.append((name, key, *arguments))
        else:
            found.append((name, key, *(_moved(argument, shift) for argument in arguments)))
    return found


def _moved(value: bytes, shift: int) -> bytes:
    """The value, moved by so many seconds if it is a time."""
    if _UNIX_TIME.fullmatch(value):
        whole, point, fraction = value.partition(b".")
        return b"%d" % (int(whole) + shift) + point + fraction
    if _DATE.fullmatch(value):
        moved = datetime.strptime(value.decode(), _DATE_FORMAT) + timedelta(seconds=shift)
        return moved.strftime(_DATE_FORMAT).encode()
    if match := _STREAM_ID.fullmatch(value):
        return b"%d-%s" % (int(match[1]) + 1000 * shift, match[2])
    return value
