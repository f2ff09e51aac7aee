"""Pins the public images of the compose files by digest: `.env` then names each by its content."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from time import monotonic

from rqstack.errors import RqstackError, SettingsError
from rqstack.settings import StackSettings, load
from rqstack.settings.loader import declared_settings
from rqstack.stack import env, generated
from rqstack.stack.reporting import Report

IMAGES = ("PYTHON_IMAGE", "REDIS_IMAGE", "POSTGRES_IMAGE", "PROMETHEUS_IMAGE", "ALERTMANAGER_IMAGE", "GRAFANA_IMAGE")
"""Settings of images that others publish."""


class PinFailed(RqstackError):
    """An image cannot be pinned. The message has its name; `.env` is as it was."""


def pin(root: Path, report: Report) -> None:
    """Pull each public image, and write it into `.env` with its digest. One that is pinned is pinned anew by its tag.

    An image that the user has named is changed in the user's own line, others go into the generated block.

    Args:
        root: The home of the stack.

    Raises:
        PinFailed: An image cannot be pulled. Nothing is changed then.
        SettingsError: There is no `.env`.
    """
    if not (root / ".env").is_file():
        raise SettingsError(f"{root / '.env'} does not exist. Run: make setup")
    own = generated.own(root)
    defaults = {setting.name: setting.default for setting in declared_settings(StackSettings).values()}
    deadline = monotonic() + load(StackSettings).pull_timeout
    pinned = {}
    for name in IMAGES:
        # Not what the generated block has: an image that was built here, or an earlier digest.
        image = (own.get(name) or defaults[name]).partition("@")[0]
        report(f"Pulling {image}.")
        pinned[name] = f"{image}@{_digest(image, name, max(1.0, deadline - monotonic()))}"
    generated.update(root, {name: None if own.get(name) else image for name, image in pinned.items()})
    env.set_values(root, {name: image for name, image in pinned.items() if own.get(name)})
    for name, image in pinned.items():
        report(f"{name}={image}")


def _digest(image: str, name: str, timeout: float) -> str:
    try:
        done = subprocess.run(
            ["docker", "pull", "--quiet", image], capture_output=True, text=True, timeout=timeout, check=False
        )
    except FileNotFoundError:
        raise PinFailed("There is no docker command. Install Docker to pin images.") from None
    except subprocess.TimeoutExpired:
        raise PinFailed(f"{name}: {image} was not pulled within RQSTACK_PULL_TIMEOUT. Nothing was changed.") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PinFailed(f"{name}: {image} cannot be pulled: {reason}. Nothing was changed.")
    shown = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", image],
        capture_output=True,
        text=True,
        check=False,
    )
    digests = dict(each.split("@", 1) for each in json.loads(shown.stdout or "[]"))
    found = digests.get(repository(image))
    if found is None:
        raise PinFailed(f"{name}: the registry of {image} gives no digest. Nothing was changed.")
    return str(found)


def repository(image: str) -> str:
    """An image's name without its tag.

    Args:
        image: Without a digest. A port of a registry is no tag.
    """
    head, colon, tag = image.rpartition(":")
    return head if colon and "/" not in tag else image
