"""Settings: declared once, read from the environment, files and a framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqstack.lazy import exports

if TYPE_CHECKING:
    from rqstack.settings.fields import Settings, get_settings
    from rqstack.settings.loader import SecretStr, load
    from rqstack.settings.stack_fields import StackSettings

__all__ = ["SecretStr", "Settings", "StackSettings", "get_settings", "load"]

if not TYPE_CHECKING:
    # Imported on first use: the health check uses `sources` and `defaults` only, and must not load msgspec.
    __getattr__ = exports(
        __name__,
        {
            "SecretStr": "loader",
            "Settings": "fields",
            "StackSettings": "stack_fields",
            "get_settings": "fields",
            "load": "loader",
        },
    )
