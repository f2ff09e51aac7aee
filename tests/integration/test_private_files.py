"""What another user of the machine can read, plant or hold: nothing."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rqstack.daemon.logfile import LogFile
from rqstack.daemon.pidfile import PidFile
from rqstack.database import open_database
from rqstack.errors import DaemonError, RqstackError, SettingsError
from rqstack.processes.private_files import open_private, private_folder
from rqstack.settings import Settings, load
from rqstack.stack import locks
from support.local_stack import LocalStack
from support.processes import rqstack_command

OTHER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")


def open_to_others(root: Path) -> list[Path]:
    """The files below a folder that others could read, if they could enter it."""
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & (stat.S_IRWXO | stat.S_IRWXG)
    ]


@pytest.mark.timeout(200)
def test_nothing_that_a_stack_writes_is_open_to_others(tmp_path: Path) -> None:
    project = LocalStack(tmp_path)
    var = tmp_path / "var"
    var.mkdir(mode=0o755)  # as an older release has made it
    before = os.umask(0o022)
    try:
        assert project.start().returncode == 0
        mark = tmp_path / "mark"
        job = project.trigger("demo.tasks.sleep", "0", str(mark))
        assert project.result(job) == "slept"
    finally:
        os.umask(before)
        project.close()
    assert stat.S_IMODE(var.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    for folder in ("redis", "log", "run", "secrets"):
        assert stat.S_IMODE((var / folder).stat().st_mode) == 0o700, folder
    # Containers mount the user file and the secrets as other users; dependencies of projects are no secret.
    mounted = {var / "redis" / "users.acl", *(var / "secrets").iterdir()}
    found = {path for path in open_to_others(var) if var / "deps" not in path.parents} - mounted
    assert found == set()
    # Files of tasks have the permissions that the user has asked for.
    assert stat.S_IMODE(mark.stat().st_mode) == 0o644


def test_a_database_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "data" / "jobs.db"
    before = os.umask(0)
    try:
        engine = open_database(f"sqlite:///{path}")
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (x)")
            assert open_to_others(path.parent) == []
        engine.dispose()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@needs_root
def test_an_env_file_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RQSTACK_GRACE=7\n")
    os.chown(tmp_path / ".env", OTHER, OTHER)
    with pytest.raises(SettingsError, match=rf"\.env is not read: it belongs to user {OTHER}"):
        load(Settings)
    for command in (["info"], ["health", "--ready"], ["secrets", "rotate"]):
        done = subprocess.run(rqstack_command(*command), capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 1
        assert f"belongs to user {OTHER}" in done.stderr + done.stdout
        assert "Traceback" not in done.stderr


@needs_root
def test_root_takes_the_env_file_of_who_called_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("RQSTACK_GRACE=7\n")
    os.chown(tmp_path / ".env", OTHER, OTHER)
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    assert load(Settings).grace == 7


@needs_root
def test_lock_files_of_another_user_stop_nothing(tmp_path: Path) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        planted = locks.folder(tmp_path) / "worker.1"
        planted.write_text(f"{victim.pid}\n")
        os.chown(planted, OTHER, OTHER)
        with planted.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            done = subprocess.run(
                rqstack_command("stack", "stop", "--mode", "local"),
                env=os.environ | {"RQSTACK_HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 1
        assert f"belongs to user {OTHER}" in done.stderr
        assert victim.poll() is None
        with pytest.raises(RqstackError, match="Remove it"):
            locks.acquire(tmp_path, "worker.1", os.getpid())
    finally:
        victim.kill()
        victim.communicate()


@needs_root
def test_a_lock_that_names_the_process_of_another_user_is_none_of_the_stack(tmp_path: Path) -> None:
    victim = subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=OTHER)
    try:
        with locks.acquire(tmp_path, "worker.1", victim.pid):
            assert list(locks.running_processes(tmp_path)) == []
    finally:
        victim.kill()
        victim.communicate()


@needs_root
def test_the_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "var" / "run").mkdir(parents=True)
    os.chown(tmp_path / "var" / "run", OTHER, OTHER)
    with pytest.raises(RqstackError, match=f"belongs to user {OTHER}"):
        locks.folder(tmp_path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("keep")
    (locks.folder(tmp_path) / "worker.1").symlink_to(target)
    (tmp_path / "worker.pid").symlink_to(target)
    with pytest.raises(RqstackError, match="symbolic link"):
        locks.acquire(tmp_path, "worker.1", 1)
    with pytest.raises(RqstackError, match="symbolic link"):
        list(locks.running_processes(tmp_path))
    with pytest.raises(DaemonError, match="symbolic link"), PidFile(tmp_path / "worker.pid"):
        pass
    with pytest.raises(DaemonError, match="symbolic link"):
        PidFile(tmp_path / "worker.pid").owner()
    assert target.read_text() == "keep"


def test_a_fifo_is_no_lock_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "worker.pid")
    with pytest.raises(OSError, match="not a regular file"):
        os.close(open_private(tmp_path / "worker.pid", os.O_RDWR))


@needs_root
def test_pid_and_log_files_of_another_user_are_refused(tmp_path: Path) -> None:
    for name in ("worker.pid", "worker.log"):
        (tmp_path / name).touch(mode=0o666)
        os.chown(tmp_path / name, OTHER, OTHER)
    with pytest.raises(DaemonError, match=f"belongs to user {OTHER}.*Choose another with -p"):
        PidFile(tmp_path / "worker.pid").check()
    with pytest.raises(DaemonError, match=f"belongs to user {OTHER}.*Choose another with -l"):
        LogFile(tmp_path / "worker.log")


def test_pid_and_log_files_are_private(tmp_path: Path) -> None:
    (tmp_path / "old.pid").touch(mode=0o644)
    for name in ("old.pid", "new.pid"):
        with PidFile(tmp_path / name):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    LogFile(tmp_path / "worker.log").write(b"line\n")
    assert stat.S_IMODE((tmp_path / "worker.log").stat().st_mode) == 0o600
    assert stat.S_IMODE(private_folder(tmp_path / "made").stat().st_mode) == 0o700
