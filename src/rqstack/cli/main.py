"""The entry point of the `rqstack` command.

Nothing heavy is imported here: `rqstack health` runs every few seconds in every container and answers before click,
msgspec or Redis's client would have been loaded.
"""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point of `rqstack`."""
    if sys.argv[1:2] == ["health"]:
        from rqstack.cli.health import main as health

        sys.exit(health(sys.argv[2:]))
    from rqstack.cli.group import run

    sys.exit(run())


if __name__ == "__main__":
    main()
