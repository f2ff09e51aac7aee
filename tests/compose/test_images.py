"""Images where no registry answers: built from Debian's packages, left out, or refused by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rqstack.stack import images

ROOT = Path(__file__).resolve().parents[2]
# An address that nothing can be at, of the block for documentation: a pull from it fails or hangs.
NOWHERE = "192.0.2.1:5000"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    return tmp_path


@pytest.mark.skipif(
    os.getuid() != 0 and shutil.which("mmdebstrap") is None,
    reason="mmdebstrap is missing, and only root can install it",
)
def test_what_cannot_be_pulled_is_built_or_left_out(home: Path) -> None:
    said: list[str] = []
    needed = {"redis": f"{NOWHERE}/redis:8", "grafana": f"{NOWHERE}/grafana:12"}
    found = images.ensure(home, needed, 3, said.append)
    assert found.left_out == ("grafana",)
    assert found.built == {"REDIS_IMAGE": "rqstack-base/redis:trixie"}
    assert (home / "var" / "images.env").read_text().splitlines()[1:] == ["REDIS_IMAGE=rqstack-base/redis:trixie"]
    assert "Cannot pull redis: building from Debian packages." in said
    assert len([line for line in said if line.startswith("Left out: grafana.")]) == 1
    version = ["docker", "run", "--rm", "rqstack-base/redis:trixie", "redis-server", "--version"]
    assert subprocess.run(version, capture_output=True, text=True, check=True).stdout.startswith("Redis server v=")

    # What is here is neither pulled nor built again.
    said.clear()
    assert images.ensure(home, {"redis": "rqstack-base/redis:trixie"}, 3, said.append) == images.Result({}, ())
    assert said == []


def test_an_image_that_can_be_had_in_no_way_is_named(home: Path) -> None:
    with pytest.raises(images.ImagesMissing, match=rf"{NOWHERE}/shop:1 of shop is missing and cannot be pulled"):
        images.ensure(home, {"shop": f"{NOWHERE}/shop:1"}, 3, lambda line: None)


def test_an_unknown_name_is_refused(home: Path) -> None:
    done = subprocess.run([home / "deploy/airgap/build-images", "mysql"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("build-images: no image named 'mysql'; there are: python redis")
