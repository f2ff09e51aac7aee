"""Fetches RQ's own tests: the source distribution of the pinned version, hash checked, kept out of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class NotFetched(Exception):
    """The source distribution is not what the lock file names; the message says why."""


class Unreachable(Exception):
    """The package index cannot be reached."""


def _requirement() -> str:
    """RQ's line of the lock file, with its hashes."""
    text = (ROOT / "requirements" / "runtime.txt").read_text()
    found = re.search(r"^rq==(\S+) \\\n((?:\s+--hash=\S+(?: \\)?\n)+)", text, re.MULTILINE)
    if found is None:
        raise NotFetched("requirements/runtime.txt pins no rq with hashes")
    if found[1] != version("rq"):
        raise NotFetched(f"rq {version('rq')} is installed, requirements/runtime.txt pins {found[1]}")
    return found[0]


def fetch() -> Path:
    """The folder that holds RQ's `tests`, downloaded at its first use.

    Raises:
        Unreachable: The package index cannot be reached.
        NotFetched: What it gave is not what the lock file names, or the lock file names no RQ.
    """
    place = ROOT / "var" / "rq-tests" / version("rq")
    if place.is_dir():
        return place
    requirement = _requirement()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        lock = Path(folder) / "lock.txt"
        lock.write_text(requirement)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "rq"]
        command += ["--require-hashes", "--dest", folder, "--requirement", str(lock)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        archives = list(Path(folder).glob("rq-*.tar.gz"))
        if run.returncode or not archives:
            last = (run.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            kind = NotFetched if "HASHES" in run.stderr else Unreachable
            raise kind(f"RQ's source distribution cannot be fetched: {last}")
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(archives[0]) as archive:
            archive.extractall(unpacked, filter="data")
        tests = next(unpacked.glob("rq-*/tests"))
        ready = Path(folder) / "ready"
        ready.mkdir()
        shutil.move(tests, ready / "tests")
        try:
            ready.replace(place)
        except OSError:  # another process was first
            if not place.is_dir():
                raise
    return place
