"""The contract of a message backend, run against each of them and against a user's own."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from rqstack.backends import BaseQueue, DatabaseQueue, RedisQueue, backend_class, open_queue
from rqstack.errors import BackendError
from rqstack.settings import get_settings
from support.waiting import until

FORK = multiprocessing.get_context("fork")


class FolderQueue(BaseQueue):
    """A user's own backend, of the four methods alone: a JSON file in the folder of the connection, with a lock."""

    def _change(self, change: Callable[[list[str]], object]) -> object:
        path = Path(self.connection, f"{self.name}.json")
        path.touch()
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            waiting = json.loads(file.read() or "[]")
            result = change(waiting)
            file.seek(0)
            file.truncate()
            file.write(json.dumps(waiting))
        return result

    def write(self, data: bytes) -> None:
        self._change(lambda waiting: waiting.append(data.hex()))

    def read(self) -> bytes | None:
        found = self._change(lambda waiting: waiting.pop(0) if waiting else None)
        return None if found is None else bytes.fromhex(str(found))

    def flush(self) -> None:
        self._change(lambda waiting: waiting.clear())

    def __len__(self) -> int:
        return int(str(self._change(len)))


Maker = Callable[..., BaseQueue]


@pytest.fixture(params=["redis", "sqlite", "postgres", "own"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Maker]:
    """Makes queues of one kind, in an empty store."""
    opened: list[BaseQueue] = []
    connection = ""
    cls: type[BaseQueue] = {"redis": RedisQueue, "own": FolderQueue}.get(request.param, DatabaseQueue)
    if request.param == "redis":
        connection = request.getfixturevalue("redis_url").removeprefix("redis://").replace("/", ":")
    elif request.param == "sqlite":
        connection = f"sqlite:///{tmp_path}/messages.db"
    elif request.param == "postgres":
        connection = request.getfixturevalue("postgres_url")
    else:
        connection = str(tmp_path)

    def made(name: str = "letters") -> BaseQueue:
        opened.append(cls(name, connection))
        return opened[-1]

    made.claims = request.param != "own"  # type: ignore[attr-defined]
    yield made
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(make: Maker) -> BaseQueue:
    return make()


@pytest.fixture
def claiming(make: Maker) -> BaseQueue:
    return make()


has_claims = pytest.mark.parametrize("make", ["redis", "sqlite", "postgres"], indirect=True)
"""A backend of the four methods alone has no claims."""


def test_an_empty_queue_is_no_error(queue: BaseQueue) -> None:
    assert queue.read() is None
    assert len(queue) == 0
    assert queue  # a queue is true, however many wait
    queue.flush()
    assert queue.claim("me", 10, 0) is None
    queue.ack("me")
    queue.release("me")
    queue.extend(["me"], 10)
    queue.extend([], 10)
    assert queue.held("me") is None


def test_first_in_first_out(queue: BaseQueue) -> None:
    sent = [f"letter {number}".encode() for number in range(20)]
    for data in sent:
        queue.write(data)
    assert len(queue) == 20
    assert [queue.read() for _ in sent] == sent
    assert queue.read() is None


def test_queues_of_other_names_share_nothing(make: Maker) -> None:
    one, two = make("one"), make("one:two")
    one.write(b"1")
    two.write(b"2")
    two.flush()
    assert (len(one), len(two)) == (1, 0)
    assert one.read() == b"1"


def test_another_object_of_the_name_sees_the_messages(make: Maker) -> None:
    make().write(b"x")
    other = make()
    assert len(other) == 1
    other.close()
    assert other.read() == b"x"  # a closed one opens again


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_any_bytes_come_back_as_they_are(queue: BaseQueue, sent: list[bytes]) -> None:
    for data in sent:
        queue.write(data)
    assert [queue.read() for _ in sent] == sent
    assert queue.read() is None


def test_a_large_message(queue: BaseQueue) -> None:
    data = bytes(range(256)) * 8192
    queue.write(data)
    assert queue.claim("me", 10, 0) == data


def test_a_waiting_claim_gets_what_is_written_meanwhile(make: Maker) -> None:
    got: list[bytes | None] = []
    waiter = threading.Thread(target=lambda: got.append(make().claim("me", 10, 30)))
    waiter.start()
    make().write(b"late")
    waiter.join(20)
    assert got == [b"late"]


def test_a_waiting_claim_ends(queue: BaseQueue) -> None:
    assert queue.claim("me", 10, 0.2) is None


def _drain(make: Maker, sender: multiprocessing.connection.Connection) -> None:  # type: ignore[name-defined]
    queue, owner, got = make(), uuid4().hex, []
    while (data := queue.claim(owner, 30, 1)) is not None:
        got.append(data)
        queue.ack(owner)
    sender.send(got)
    queue.close()


def _fill(make: Maker, which: int) -> None:
    queue = make()
    for number in range(25):
        queue.write(f"{which}-{number}".encode())
    queue.close()


def test_many_processes_take_each_message_once(make: Maker) -> None:
    """Also the table is made by several processes at the same time."""
    pipes = [FORK.Pipe(duplex=False) for _ in range(3)]
    processes = [FORK.Process(target=_fill, args=(make, which)) for which in range(3)]
    processes += [FORK.Process(target=_drain, args=(make, sender)) for _, sender in pipes]
    for process in processes:
        process.start()
    try:
        got = []
        for receiver, _ in pipes:
            assert receiver.poll(60)
            got.append(receiver.recv())
        for process in processes:
            process.join(20)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    expected = sorted(f"{which}-{number}".encode() for which in range(3) for number in range(25))
    assert sorted(data for each in got for data in each) == expected
    assert len(make()) == 0


# -- claims


@has_claims
def test_what_is_in_hand_does_not_wait(claiming: BaseQueue) -> None:
    for data in (b"1", b"2"):
        claiming.write(data)
    assert claiming.claim("me", 30, 0) == b"1"
    assert claiming.held("me") == b"1"
    assert len(claiming) == 1
    assert claiming.claim("you", 30, 0) == b"2"
    assert claiming.read() is None
    claiming.ack("me")
    assert claiming.held("me") is None
    claiming.release("you")
    assert claiming.read() == b"2"


@has_claims
def test_what_is_released_comes_first(claiming: BaseQueue) -> None:
    for data in (b"1", b"2", b"3"):
        claiming.write(data)
    assert claiming.claim("me", 30, 0) == b"1"
    claiming.release("me")
    assert [claiming.read() for _ in range(3)] == [b"1", b"2", b"3"]


@has_claims
def test_a_flush_leaves_what_is_in_hand(claiming: BaseQueue) -> None:
    for data in (b"1", b"2"):
        claiming.write(data)
    claiming.claim("me", 30, 0)
    claiming.flush()
    assert len(claiming) == 0
    claiming.release("me")
    assert claiming.read() == b"1"


@has_claims
def test_what_a_dead_owner_had_goes_to_another(claiming: BaseQueue) -> None:
    claiming.write(b"1")
    assert claiming.claim("dead", 0.2, 0) == b"1"
    assert until(lambda: claiming.claim("me", 30, 0.1), 20) == b"1"
    claiming.ack("dead")  # it was cut off, not dead: it has no say any more
    claiming.release("dead")
    assert claiming.held("me") == b"1"
    assert len(claiming) == 0
    claiming.ack("me")
    assert claiming.read() is None


@has_claims
def test_an_extended_lease_holds(claiming: BaseQueue) -> None:
    claiming.write(b"1")
    assert claiming.claim("me", 0.5, 0) == b"1"
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        claiming.extend(["me", "nobody"], 0.5)
        assert claiming.claim("you", 30, 0.05) is None
    assert claiming.held("me") == b"1"


def test_any_order_of_calls(make: Maker) -> None:
    """Against a model: a list of what waits, and a message an owner."""
    numbers = iter(range(10**9))
    claims = make.claims  # type: ignore[attr-defined]

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.queue = make(uuid4().hex)
            self.waiting: deque[bytes] = deque()
            self.held: dict[str, bytes] = {}

        @rule(data=st.binary(max_size=20))
        def write(self, data: bytes) -> None:
            data = b"%d:" % next(numbers) + data
            self.queue.write(data)
            self.waiting.append(data)

        @rule()
        def read(self) -> None:
            assert self.queue.read() == (self.waiting.popleft() if self.waiting else None)

        @rule()
        def flush(self) -> None:
            self.queue.flush()
            self.waiting.clear()

        @rule(owner=st.sampled_from("abc"))
        def claim(self, owner: str) -> None:
            if owner in self.held:
                return
            found = self.queue.claim(owner, 300, 0)
            assert found == (self.waiting.popleft() if self.waiting else None)
            if found is not None:
                self.held[owner] = found

        @rule(owner=st.sampled_from("abc"))
        def ack(self, owner: str) -> None:
            self.queue.ack(owner)
            self.held.pop(owner, None)

        @rule(owner=st.sampled_from("abc"))
        def release(self, owner: str) -> None:
            self.queue.release(owner)
            data = self.held.pop(owner, None)
            if data is not None and claims:
                # The table keeps the place it had; the list puts it at the very front.
                self.waiting.appendleft(data)
                if isinstance(self.queue, DatabaseQueue):
                    self.waiting = deque(sorted(self.waiting, key=lambda each: int(each.partition(b":")[0])))

        @invariant()
        def counts(self) -> None:
            assert len(self.queue) == len(self.waiting)
            if claims:
                assert all(self.queue.held(owner) == self.held.get(owner) for owner in "abc")

        def teardown(self) -> None:
            self.queue.close()

    run_state_machine_as_test(Machine, settings=settings(max_examples=15, stateful_step_count=20, deadline=None))


# -- choosing one


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("DatabaseQueue", "not the dotted path of a class"),
        ("no.such.module.Queue", "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        ("rqstack.backends.NoQueue", "has no 'NoQueue'"),
        ("rqstack.settings.Settings", "is not a subclass of rqstack.backends.BaseQueue"),
        ("rqstack.backends.backend_class", "is not a subclass"),
        ("rqstack.backends.BaseQueue", "does not implement __len__, flush, read, write"),
    ],
)
def test_a_path_that_is_no_backend_is_named(path: str, reason: str) -> None:
    with pytest.raises(BackendError) as caught:
        backend_class(path)
    assert path.rpartition(".")[0] in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("connection", ["localhost:port:0", "localhost:1:x", ":6379:0", "http://localhost", "a:b:c:d"])
def test_a_redis_connection_that_is_none_is_named(connection: str) -> None:
    with pytest.raises(BackendError, match="QUEUE_CONNECTION"):
        RedisQueue("q", connection)


@pytest.mark.parametrize("url", ["no url", "mysql://localhost/x"])
def test_a_database_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BackendError, match="database URL"):
        DatabaseQueue("q", url)


def test_the_database_needs_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_BACKEND", "rqstack.backends.DatabaseQueue")
    get_settings.cache_clear()
    queue = open_queue("default", get_settings())
    queue.write(b"x")
    queue.close()
    assert (tmp_path / "var" / "rqstack.db").is_file()
    assert queue.read() == b"x"
    queue.close()


def test_a_store_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    for queue in (RedisQueue("q", "127.0.0.1:1:0"), DatabaseQueue("q", "postgresql://u:secret@127.0.0.1:1/x")):
        with pytest.raises(BackendError, match=r"127\.0\.0\.1:1") as caught:
            queue.write(b"x")
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match="Cannot create"):
        DatabaseQueue("q", f"sqlite:///{tmp_path}/file/x.db").read()


def test_another_process_leaves_the_log_of_an_open_database(tmp_path: Path) -> None:
    """SQLite deletes it with the last connection; a second engine here must not end the locks of the first."""
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    queues = [DatabaseQueue(name, url) for name in ("first", "second")]
    try:
        for queue in queues:
            queue.write(b"from here")
        code = f"from rqstack.backends import DatabaseQueue; DatabaseQueue('first', {url!r}).write(b'from there')"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (tmp_path / "queue.db-wal").exists()
        assert [queues[0].read(), queues[0].read()] == [b"from here", b"from there"]
    finally:
        for queue in queues:
            queue.close()
