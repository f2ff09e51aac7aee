"""The code in docs/tasks.md is run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rqstack.settings import get_settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_runs(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = []
    for block in BLOCK.findall(PAGE.read_text()):
        if match := re.match(r"# (\S+\.py)\n", block):
            file = tmp_path / match[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block)
        else:
            script.append(block)
    project = tmp_path / "tasks" / "shop"
    (project / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n')
    (tmp_path / "script.py").write_text("import rqstack\nrqstack.autodiscover().check()\n" + "\n".join(script))
    monkeypatch.setenv("PYTHONPATH", str(project))
    get_settings.cache_clear()
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "JobStatus.QUEUED None"
    assert len(script) >= 4
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    done = subprocess.run(tests, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
