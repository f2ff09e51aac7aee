"""The entry point of the `rqstack` command.

It imports nothing heavy: `rqstack health` runs every few seconds in every container, and is done before click, msgspec
or redis-py would have been imported.
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
