"""Provides the images of the compose files: pulls missing ones, or builds them from Debian packages."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from rqstack.errors import RqstackError
from rqstack.stack import generated
from rqstack.stack.reporting import Report

BUILDABLE = ("python", "redis", "postgres", "prometheus", "alertmanager")
"""Services whose image deploy/airgap/build-images can build; python is the base of rqstack's own images."""

OPTIONAL = ("grafana",)
"""Services that are left out if their image is not available."""


class ImagesMissing(RqstackError):
    """An image is missing and can be neither pulled nor built. The message has its name."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of `ensure`.

    Args:
        seen: The services whose images were needed.
        built: Images that were built, by environment variable.
        left_out: Optional services whose image is not available.
    """

    seen: tuple[str, ...]
    built: Mapping[str, str]
    left_out: tuple[str, ...]

    def joined(self, other: Result) -> Result:
        """This outcome and another one."""
        return Result(self.seen + other.seen, {**self.built, **other.built}, self.left_out + other.left_out)


def external_images(config: Mapping[str, Any]) -> dict[str, str]:
    """The images, by service, that a configuration does not build itself.

    Args:
        config: Output of `docker compose config --format json`.
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


def ensure(root: Path, needed: Mapping[str, str], pull_timeout: float, report: Report) -> Result:
    """Pull or build missing images.

    Args:
        root: The home of the stack.
        needed: Images by service, from `external_images`.
        pull_timeout: Seconds for all pulls together, because pulls from an unreachable registry may hang.

    Raises:
        ImagesMissing: A required image can be neither pulled nor built.
    """
    missing = {name: image for name, image in needed.items() if not is_present(image)}
    if not missing:
        return Result(tuple(needed), {}, ())
    failed = _pull(missing, pull_timeout, report)
    left_out = tuple(name for name in failed if name in OPTIONAL)
    to_build = [name for name in failed if name in BUILDABLE]
    for name, image in failed.items():
        is_users = name in BUILDABLE and generated.is_users(root, f"{name.upper()}_IMAGE")
        if is_users or (name not in OPTIONAL and name not in BUILDABLE):
            raise ImagesMissing(
                f"The image {image} of {name} is missing and cannot be pulled. Load it, or set another one."
            )
    built = {}
    if to_build:
        report(f"Cannot pull {', '.join(to_build)}: building from Debian packages.")
        built = _build(root, to_build, report)
    if left_out:
        report(f"Left out: {', '.join(left_out)}. The image cannot be pulled, and Debian has no package for it.")
    return Result(tuple(needed), built, left_out)


def is_present(image: str) -> bool:
    """Whether the Docker engine has an image."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _pull(images: Mapping[str, str], timeout: float, report: Report) -> dict[str, str]:
    """Pull images in parallel. Returns those that failed."""
    report(f"Pulling {', '.join(sorted(set(images.values())))}.")
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
    # They run in parallel, so they share one deadline.
    deadline = monotonic() + timeout
    for name, process in running.items():
        try:
            process.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode:
            failed[name] = images[name]
    return failed


def _build(root: Path, names: list[str], report: Report) -> dict[str, str]:
    script = root / "deploy" / "airgap" / "build-images"
    lines: list[str] = []
    # In a session of its own: mmdebstrap that fails sends SIGHUP to its process group, which would end the caller too.
    with subprocess.Popen(
        [str(script), *names], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        try:
            for line in process.stderr:
                lines.append(line.rstrip())
                if line.startswith("building "):
                    report(f"  {line.rstrip()}")
            output = process.stdout.read()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        raise ImagesMissing(f"Cannot build base images from Debian packages: {' '.join(lines[-5:])}")
    return dict(line.split("=", 1) for line in output.splitlines())


def remove_former(project: str, report: Report) -> None:
    """Remove the images of earlier builds that no container uses any more.

    Args:
        project: The compose project, with which compose labels what it builds.
    """
    label = f"label=com.docker.compose.project={project}"
    # Dangling ones only: a newer build has taken their name.
    command = ["docker", "image", "prune", "--force", "--filter", label]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    removed = sum(line.startswith("deleted: ") for line in done.stdout.splitlines())
    space = next((line for line in done.stdout.splitlines() if line.startswith("Total reclaimed space: ")), "")
    if removed:
        report(f"Removed the images of earlier builds: {space.partition(': ')[2]}.")
