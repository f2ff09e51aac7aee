"""Images: built from Debian packages, left out or refused where no registry answers; our own from cached layers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rqstack.stack import generated, images
from rqstack.stack.compose import Compose
from support.compose_stack import ComposeStack
from support.paths import ROOT

# An address that nothing can be at, of the block for documentation: a pull from it fails or hangs.
NOWHERE = "192.0.2.1:5000"
MONITORING_IMAGES = {"RQ_EXPORTER_IMAGE": "rqstack/rq-exporter", "DASHBOARD_IMAGE": "rqstack/dashboard"}


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
    assert "Cannot pull redis: building from Debian packages." in said
    assert len([line for line in said if line.startswith("Left out: grafana.")]) == 1
    version = ["docker", "run", "--rm", "rqstack-base/redis:trixie", "redis-server", "--version"]
    assert subprocess.run(version, capture_output=True, text=True, check=True).stdout.startswith("Redis server v=")

    # What is here is neither pulled nor built again.
    said.clear()
    assert images.ensure(home, {"redis": "rqstack-base/redis:trixie"}, 3, said.append) == images.Result(
        ("redis",), {}, ()
    )
    assert said == []


def test_an_image_that_can_be_had_in_no_way_is_named(home: Path) -> None:
    with pytest.raises(images.ImagesMissing, match=rf"{NOWHERE}/shop:1 of shop is missing and cannot be pulled"):
        images.ensure(home, {"shop": f"{NOWHERE}/shop:1"}, 3, lambda line: None)


def test_an_unknown_name_is_refused(home: Path) -> None:
    done = subprocess.run([home / "deploy/airgap/build-images", "mysql"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("build-images: no image named 'mysql'; there are: python redis")


def test_a_change_of_the_package_installs_no_requirements_again(new_stack: ComposeStack) -> None:
    own = {name: f"{image}:{new_stack.project}" for name, image in MONITORING_IMAGES.items()}
    with (new_stack.home / ".env").open("a") as file:
        file.writelines(f"{name}={image}\n" for name, image in own.items())
    needed = images.external_images(Compose(new_stack.home, monitoring=True).config())
    found = images.ensure(new_stack.home, {"python": needed["python"]}, 60, print)
    generated.update(new_stack.home, found.built)
    build = ("--progress=plain", "-f", "docker-compose.yml", "-f", "docker-compose-monitor.yml", "build")
    try:
        new_stack.compose(*build)
        with (new_stack.home / "src" / "rqstack" / "errors.py").open("a") as file:
            file.write(f"# {new_stack.project}\n")
        said = new_stack.compose(*build).stdout
    finally:
        new_stack.docker("image", "rm", *own.values(), check=False)
    steps = dict(re.findall(r"^(#\d+) \[.+?\] RUN (.+)$", said, re.MULTILINE))
    cached = re.findall(r"^(#\d+) CACHED$", said, re.MULTILINE)
    assert any("pip wheel" in step and number not in cached for number, step in steps.items()), "the change is built"
    requirements = {number: step for number, step in steps.items() if "--require-hashes" in step}
    files = {Path(step.split()[-1]).stem for step in requirements.values()}
    assert files == {"build", "runtime", "exporter", "dashboard"}
    assert requirements.keys() <= set(cached)


def test_images_of_earlier_builds_are_removed(new_stack: ComposeStack) -> None:
    new_stack.start()
    with (new_stack.home / "src" / "rqstack" / "errors.py").open("a") as file:
        file.write(f"# {new_stack.project}\n")
    said = new_stack.start().stdout
    assert re.search(r"^Removed the images of earlier builds: [\d.]+ ?[kM]?B\.$", said, re.MULTILINE)
    mine = ("--filter", f"label=com.docker.compose.project={new_stack.project}", "--filter", "dangling=true")
    assert new_stack.docker("image", "ls", "--quiet", *mine) == ""
    assert "Removed" not in new_stack.start().stdout


def test_an_image_that_the_user_names_is_never_replaced(new_stack: ComposeStack) -> None:
    with (new_stack.home / ".env").open("a") as file:
        file.write(f"REDIS_IMAGE={NOWHERE}/redis:8\nRQSTACK_PULL_TIMEOUT=3\n")
    done = new_stack.rqstack("stack", "start", "--mode", "compose", check=False)
    assert done.returncode == 1
    assert f"The image {NOWHERE}/redis:8 of redis is missing and cannot be pulled." in done.stderr
