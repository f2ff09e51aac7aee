"""`make fuzz`: write hostile records to every key and channel while all processes run, and start those again and again.

Prints one table. The exit code is 1 if a process died or stood still, or if another job did not end as it should.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

for _name in [name for name in os.environ if name.startswith(("RQSTACK_", "REDIS_", "RQ_"))]:
    del os.environ[_name]
_home = tempfile.mkdtemp(prefix="rqstack-fuzz-")
os.environ["RQSTACK_HOME"] = _home

from fuzz_run.records import to_json  # noqa: E402
from fuzz_run.run import Row, run  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fuzz_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=20_000, help="hostile records, at least (default: 20000)")
    parser.add_argument("--restarts", type=int, default=100, help="restarts of each process (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers (default: 1)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", action="store_true", help="keep the logs, and say where")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all it started is ended

    def report(done: int) -> None:
        print(f"{done:,} records", file=sys.stderr, flush=True)

    try:
        row = run(given.records, given.restarts, given.seed, Path(_home), report)
    finally:
        if given.keep:
            print(f"Logs: {_home}")
        else:
            shutil.rmtree(_home, ignore_errors=True)
    print(_table(row))
    if given.json:
        given.json.write_text(to_json(asdict(row)))
    for problem in row.problems:
        print(problem)
    return 1 if row.problems else 0


def _table(row: Row) -> str:
    lines = ["| what | number |", "|---|---:|"]
    lines += [f"| {what} | {value:,} |" for what, value in (("records", row.records), ("keys and channels", row.keys))]
    lines += [f"| restarts of the {kind} | {count:,} |" for kind, count in row.restarts.items()]
    lines += [f"| commands | {row.commands:,} |", f"| other jobs, all finished | {row.canaries:,} |"]
    lines += [f"| died or stuck | {len(row.problems):,} |", f"| seconds | {row.seconds:,.0f} |"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
