"""Gets the images that the compose files name: present, else pulled, else built from Debian's packages."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from rqstack.errors import RqstackError
from rqstack.stack.env import write

Say = Callable[[str], None]
BUILT = ("python", "redis", "postgres", "prometheus", "alertmanager")
"""What deploy/airgap/build-images can build, by the name of the service (python: what our own images are built on)."""

OPTIONAL = ("grafana",)
"""Services that the stack does without, where their image can be had in no way."""

FILE = Path("var") / "images.env"
BUILD_TIMEOUT = 1800.0


class ImagesMissing(RqstackError):
    """An image is not here, cannot be pulled and cannot be built; the message names it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was done.

    Args:
        built: The variables of images that were built here, as `var/images.env` holds them.
        left_out: Services whose image cannot be had.
    """

    built: Mapping[str, str]
    left_out: tuple[str, ...]


def named(config: Mapping[str, Any]) -> dict[str, str]:
    """The images that a configuration needs from elsewhere, by service.

    Args:
        config: What `docker compose config --format json` prints.
    """
    services = config["services"]
    own = {service.get("image") for service in services.values() if "build" in service}
    found = {}
    for name, service in services.items():
        if "build" in service:
            if image := (service["build"].get("args") or {}).get("PYTHON_IMAGE"):
                found["python"] = image
        elif service["image"] not in own:
            found[name] = service["image"]
    return found


def ensure(root: Path, needed: Mapping[str, str], pull_timeout: float, say: Say) -> Result:
    """Make sure that every image is here.

    Args:
        root: The home of the stack; `var/images.env` below it is written when images are built.
        needed: Images by service, as `named` gives them.
        pull_timeout: Seconds that all pulls together may take. A registry that cannot be reached may hang.
        say: Told what is pulled, built or left out.

    Raises:
        ImagesMissing: One cannot be had, and is not optional.
    """
    missing = {name: image for name, image in needed.items() if not present(image)}
    if not missing:
        return Result({}, ())
    failed = _pull(missing, pull_timeout, say)
    left_out = tuple(name for name in failed if name in OPTIONAL)
    to_build = [name for name in failed if name in BUILT]
    for name, image in failed.items():
        if name not in OPTIONAL and name not in BUILT:
            raise ImagesMissing(f"The image {image} of {name} is not here and cannot be pulled. Load it, or name one.")
    built = {}
    if to_build:
        say(f"No registry gives {', '.join(to_build)}: building them from Debian's packages, once.")
        built = _build(root, to_build, say)
    if left_out:
        say(f"Left out: {', '.join(left_out)}. Its image cannot be pulled, and Debian has no package of it.")
    return Result(built, left_out)


def present(image: str) -> bool:
    """Whether the engine has an image."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _pull(images: Mapping[str, str], timeout: float, say: Say) -> dict[str, str]:
    """Pull images side by side; returns those that could not be had."""
    say(f"Pulling {', '.join(sorted(set(images.values())))}.")
    running = {
        name: subprocess.Popen(
            ["docker", "pull", "--quiet", image],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, image in images.items()
    }
    failed = {}
    # Each wait counts from the start of all, as they run side by side.
    end = monotonic() + timeout
    for name, process in running.items():
        try:
            process.wait(max(0.0, end - monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode:
            failed[name] = images[name]
    return failed


def _build(root: Path, names: list[str], say: Say) -> dict[str, str]:
    script = root / "deploy" / "airgap" / "build-images"
    lines: list[str] = []
    with subprocess.Popen([str(script), *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            if line.startswith("building "):
                say(f"  {line.rstrip()}")
        output = process.stdout.read()
    if process.returncode:
        raise ImagesMissing(f"Base images cannot be built from Debian's packages: {' '.join(lines[-5:])}")
    built = dict(line.split("=", 1) for line in output.splitlines())
    remember(root, built)
    return built


def remember(root: Path, built: Mapping[str, str]) -> None:
    """Write variables of images to `var/images.env`, beside those that it has.

    Args:
        root: The home of the stack.
        built: Image names by variable.
    """
    known = recall(root) | dict(built)
    text = "# Images that were built here, as no registry could be reached. Remove this file to pull again.\n"
    (root / FILE).parent.mkdir(exist_ok=True)
    write(root / FILE, text + "".join(f"{name}={image}\n" for name, image in sorted(known.items())), 0o644)


def recall(root: Path) -> dict[str, str]:
    """The variables of `var/images.env`; empty if there is none.

    Args:
        root: The home of the stack.
    """
    path = root / FILE
    lines = path.read_text().splitlines() if path.is_file() else []
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
