"""Runs RQ's own tests with this project's worker and queue in place of RQ's.

python tests/rq_suite/run.py                              all modules that must pass
python tests/rq_suite/run.py test_worker -k burst -x      one module, with any of pytest's options
RQ_SUITE_CLASSES=none python tests/rq_suite/run.py …      with RQ's own classes; or: worker, queue
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import descendants  # noqa: E402
from sdist import fetch  # noqa: E402

AGAIN = 2
"""RQ's tests sleep for fixed times, which a busy machine does not keep: what fails is run again, by itself."""

MODULES = (
    *("test_worker", "test_callbacks", "test_retry", "test_repeat", "test_results", "test_dependencies"),
    *("test_executions", "test_webhooks", "test_commands", "test_registry", "test_group", "test_timeouts"),
    *("test_job", "test_job_dependency", "test_job_lifecycle", "test_queue", "test_queue_unique"),
    *("test_intermediate_queue", "test_rate_limit", "test_key_prefix"),
    *("test_scheduler", "test_scripts", "test_decorator", "test_worker_registration", "test_worker_pool", "test_cli"),
)


def command(*arguments: str) -> list[str]:
    """The pytest command, to be run in the folder that `fetch` returns."""
    plugin = str(HERE / "plugin.py")
    code = (
        "import importlib.util, sys, pytest;"
        f"spec = importlib.util.spec_from_file_location('rq_suite_plugin', {plugin!r});"
        "plugin = importlib.util.module_from_spec(spec); sys.modules['rq_suite_plugin'] = plugin;"
        "spec.loader.exec_module(plugin);"
        "sys.exit(pytest.main(sys.argv[1:], plugins=[plugin]))"
    )
    options = [
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        ".",
        "-q",
        "-rfEX",
        "--tb=short",
        "-W",
        "ignore",
    ]
    return [sys.executable, "-c", code, *options, "--timeout=120", "--import-mode=prepend", *arguments]


def run_once(tests: list[str], options: list[str]) -> tuple[int, list[str]]:
    """Run tests of RQ.

    Returns:
        pytest's exit code, and the ids of what failed.
    """
    with tempfile.NamedTemporaryFile("r", prefix="rqstack-rq-suite-") as failed:
        environment = os.environ | {"RQ_SUITE_FAILED": failed.name}
        environment.pop("PYTEST_ADDOPTS", None)  # meant for this project's tests
        code = subprocess.run(command(*tests, *options), cwd=fetch(), env=environment, check=False).returncode
        return code, list(dict.fromkeys(failed.read().splitlines()))


def main(arguments: list[str]) -> int:
    named = [argument for argument in arguments if argument.startswith("test_")]
    options = [argument for argument in arguments if not argument.startswith("test_")]
    tests = [f"tests/{name.removesuffix('.py')}.py" for name in named or MODULES]
    descendants.adopt_orphans()
    # Not passed on: RQ's tests put handlers of their own in place.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code, failed = run_once(tests, options)
        for _ in range(AGAIN):
            if code == pytest.ExitCode.TESTS_FAILED and failed:
                print(f"Again, by themselves: {' '.join(failed)}", flush=True)
                code, failed = run_once(failed, options)
        return code
    finally:
        descendants.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
