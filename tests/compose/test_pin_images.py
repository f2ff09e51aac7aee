"""`make pin-images`, with a real registry on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rqstack.settings.sources import read_env_file
from rqstack.stack import generated, pinned
from rqstack.stack.pinned import IMAGES, repository
from support.ports import free_port
from support.processes import end, rqstack_command, start
from support.waiting import until

CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed (Debian's package of that name)")
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(folder=tmp_path / "registry", port=port))
    log = tmp_path / "registry.log"
    process = start([program, "serve", str(config)], log)
    try:
        until(lambda: "listening on" in log.read_text(), 30, log=log.read_text)
        yield f"127.0.0.1:{port}"
    finally:
        end(process)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """A small image that no other test has."""
    name = f"rqs-pin-{uuid.uuid4().hex[:8]}:1"
    (tmp_path / "content").write_text(name)
    subprocess.run(["tar", "-C", str(tmp_path), "-cf", str(tmp_path / "content.tar"), "content"], check=True)
    docker("import", str(tmp_path / "content.tar"), name)
    yield name
    ids = docker("images", "--quiet", "--no-trunc", name)
    docker("image", "rm", "--force", ids)


def pin(home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_IMAGE")}
    return subprocess.run(
        rqstack_command("stack", "pin-images"),
        env=environment | {"RQSTACK_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_images_are_pinned_by_digest_or_nothing_changes(registry: str, image: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "var").mkdir(parents=True)
    names = {name: f"{registry}/{name.lower().removesuffix('_image')}:8" for name in IMAGES}
    settings = "# mine\nDASHBOARD_USERNAME=me\n" + "".join(f"{name}={value}\n" for name, value in names.items())
    (home / ".env").write_text(settings)
    for name in list(names.values())[:-1]:
        docker("tag", image, name)
        docker("push", "--quiet", name)
    refused = pin(home)
    assert refused.returncode == 1
    assert re.search(r"GRAFANA_IMAGE: \S+/grafana:8 cannot be pulled: .*Nothing was changed\.", refused.stderr)
    assert "Traceback" not in refused.stderr
    assert (home / ".env").read_text() == settings

    docker("tag", image, names["GRAFANA_IMAGE"])
    docker("push", "--quiet", names["GRAFANA_IMAGE"])
    done = pin(home)
    assert done.returncode == 0, done.stderr
    found = read_env_file(home / ".env")
    assert found["DASHBOARD_USERNAME"] == "me"
    for name, plain in names.items():
        assert re.fullmatch(rf"{re.escape(plain)}@sha256:[0-9a-f]{{64}}", found[name])
        assert docker("image", "inspect", "--format", "{{.Id}}", found[name])
    assert pin(home).returncode == 0
    assert read_env_file(home / ".env") == found


def test_without_settings_it_says_what_to_do(tmp_path: Path) -> None:
    done = pin(tmp_path)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "make setup" in done.stderr


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("redis:8-alpine", "redis"),
        ("redis", "redis"),
        ("127.0.0.1:5000/redis", "127.0.0.1:5000/redis"),
        ("127.0.0.1:5000/a/redis:8", "127.0.0.1:5000/a/redis"),
    ],
)
def test_a_port_is_no_tag(image: str, expected: str) -> None:
    assert repository(image) == expected


def test_what_the_user_has_not_named_goes_into_the_block(
    registry: str, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that was built here, because no registry had answered, gives way."""
    name = f"{registry}/any:1"
    docker("tag", image, name)
    docker("push", "--quiet", name)
    monkeypatch.setenv("RQSTACK_HOME", str(tmp_path))
    (tmp_path / ".env").write_text("".join(f"{each}={name}\n" for each in IMAGES if each != "REDIS_IMAGE"))
    generated.update(tmp_path, {"REDIS_IMAGE": "rqstack-base/redis:trixie", "REDIS_PORT": 7000})
    monkeypatch.setattr(
        pinned, "declared_settings", lambda _: {"redis": SimpleNamespace(name="REDIS_IMAGE", default=name)}
    )
    pinned.pin(tmp_path, print)
    block = generated.read(tmp_path)
    assert block["REDIS_PORT"] == "7000"
    assert block["REDIS_IMAGE"].startswith(f"{name}@sha256:")
    assert set(block) == {"REDIS_PORT", "REDIS_IMAGE"}
    assert generated.own(tmp_path)["PYTHON_IMAGE"] == block["REDIS_IMAGE"]
