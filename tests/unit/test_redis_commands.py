"""Commands of `redis-cli` are read as they were written, and a Redis is made again from them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from support.redis_commands import aged, dump, format_command, load, parse_command, read_file, write_file

COMMANDS = st.builds(
    lambda name, arguments: (name.encode(), *arguments),
    st.from_regex("[A-Z]{1,9}", fullmatch=True),
    st.lists(st.binary()),
)


@given(COMMANDS)
def test_a_command_is_read_as_it_was_written(command: tuple[bytes, ...]) -> None:
    line = format_command(command)
    assert line.isascii()
    assert line.isprintable()
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("PING", (b"PING",)),
        ("  SET a  1 ", (b"SET", b"a", b"1")),
        (r'SET "a b" "\x80\n\"\\"', (b"SET", b"a b", b'\x80\n"\\')),
        ('SET "" "ü"', (b"SET", b"", "ü".encode())),
    ],
)
def test_what_a_person_types(line: str, command: tuple[bytes, ...]) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize("line", ['SET "a', 'SET a"b', 'SET "a"b', "SET 'a'", ""])
def test_a_line_that_is_no_command(line: str) -> None:
    with pytest.raises(ValueError, match=r"quotes|empty"):
        parse_command(line)


def test_a_name_that_is_no_word() -> None:
    with pytest.raises(ValueError, match="name of a command"):
        format_command((b"# SET", b"a"))


def fill(client: Redis) -> None:
    """One key of each type, with what is hard to write."""
    client.set("text", b"\0\xff\r\n\"'\\")
    client.hset("hash", mapping={"b": b"", "a": "ü", "c": b"x" * 10_000})
    client.rpush("list", "second", "first", "second")
    client.sadd("set", "b", "a")
    client.zadd("sorted", {"whole": 1764000000, "part": 1764000000.123457, "ever": float("inf"), "low": -2.5})
    client.xadd("stream", {"z": "1", "a": "2"}, id="1764000000000-3")
    client.xadd("stream", {"z": "3"}, id="1764000000001-0")
    client.set("short", "1", px=60_000)


def test_a_redis_is_made_again(connection: Redis, tmp_path: Path) -> None:
    fill(connection)
    commands = dump(connection)
    write_file(tmp_path / "state.redis", commands)
    assert read_file(tmp_path / "state.redis") == commands
    connection.flushall()
    load(connection, commands)
    assert 0 < connection.pttl("short") <= 60_000
    assert connection.ttl("text") == -1
    assert without_expiry(dump(connection)) == without_expiry(commands)
    assert connection.xrange("stream")[0] == (b"1764000000000-3", {b"z": b"1", b"a": b"2"})


@pytest.mark.skipif(not shutil.which("redis-cli"), reason="there is no redis-cli on PATH")
def test_redis_cli_reads_the_file(connection: Redis, tmp_path: Path) -> None:
    fill(connection)
    commands = dump(connection)
    write_file(tmp_path / "state.redis", commands)
    connection.flushall()
    port = connection.connection_pool.connection_kwargs["port"]
    with (tmp_path / "state.redis").open() as file:
        said = subprocess.run(["redis-cli", "-p", str(port)], stdin=file, capture_output=True, text=True, check=True)
    assert "ERR" not in said.stdout
    assert without_expiry(dump(connection)) == without_expiry(commands)


def test_another_time() -> None:
    commands = [
        (b"HSET", b"job", b"created_at", b"2025-11-24T16:00:00.250000Z"),
        (b"HSET", b"job", b"timeout", b"180"),
        (b"HSET", b"run", b"created_at", b"1764000000.250000"),
        (b"PEXPIRE", b"run", b"90000"),
        (b"PEXPIRE", b"job", b"5000000"),
        (b"SET", b"count", b"1764000000"),
        (b"XADD", b"results", b"1764000000250-1", b"execution_ended_at", b"1764000000.5"),
        (b"ZADD", b"wip", b"1764000090", b"job:1"),
        (b"ZADD", b"finished", b"inf", b"job"),
    ]
    at_once = aged(commands, recorded_at=1_764_000_000.4, now=1_764_000_100.4)
    assert at_once == [
        (b"HSET", b"job", b"created_at", b"2025-11-24T16:01:40.250000Z"),
        commands[1],
        (b"HSET", b"run", b"created_at", b"1764000100.250000"),
        *commands[3:6],
        (b"XADD", b"results", b"1764000100250-1", b"execution_ended_at", b"1764000100.5"),
        (b"ZADD", b"wip", b"1764000190", b"job:1"),
        commands[8],
    ]
    late = aged(commands, recorded_at=1_764_000_000.4, now=1_764_000_100.4, age=100)
    assert late == [
        *commands[:2],
        (b"PEXPIRE", b"job", b"4900000"),
        *commands[5:],
    ]


def without_expiry(commands: list[tuple[bytes, ...]]) -> list[tuple[bytes, ...]]:
    return [command for command in commands if command[0] != b"PEXPIRE"]
