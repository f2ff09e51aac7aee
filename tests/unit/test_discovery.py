"""Finding task modules: every project, by its own name, and whatever fails without hiding the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rqstack.errors import TaskImportError, UnknownTask
from rqstack.registry.discovery import MODULES, autodiscover, discover_packages, resolve
from rqstack.registry.registry import registry
from rqstack.settings import get_settings
from support.processes import rqstack_command

TASK = "from rqstack import task\n\n@task\ndef {0}():\n    return '{0}'\n"
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes files of a project, `PACKAGE` in a name being one that no other test uses; returns the package."""
    package = f"p{uuid4().hex}"
    path, modules = list(sys.path), set(sys.modules)

    def make(project: str, files: dict[str, str], pyproject: bool = True) -> str:
        root = tmp_path / "tasks" / project
        for name, text in files.items():
            file = root / name.replace("PACKAGE", package)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("PACKAGE", package))
        if pyproject:
            (root / "pyproject.toml").write_text(f'[project]\nname = "{project}"\nversion = "1"\n')
        return package

    yield make
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        registry.forget(name)
        del sys.modules[name]


def test_tasks_and_commands_of_every_project_are_found(write: Write) -> None:
    package = write("flat", {"PACKAGE_a/tasks.py": TASK.format("one"), "PACKAGE_a/__init__.py": ""})
    write("deep", {"src/PACKAGE_b/app/commands.py": TASK.format("two"), "src/PACKAGE_b/tests/tasks.py": "1 / 0"})
    write("other", {"PACKAGE_c/jobs.py": "1 / 0", "build/lib/PACKAGE_d/tasks.py": "1 / 0"})
    found = autodiscover()
    assert found.failures == []
    assert found.modules == {
        "rqstack.smoke": "",
        f"{package}_a.tasks": "flat",
        f"{package}_b.app.commands": "deep",
    }
    assert resolve(f"{package}_a.tasks.one")() == "one"
    assert resolve(f"{package}_b.app.commands.two")() == "two"
    assert registry.get("two").name == f"{package}_b.app.commands.two"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module_xyz", "ModuleNotFoundError: No module named 'no_such_module_xyz'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit(3)"),
        ("from rqstack import task\n@task(rate_limit='5/fortnight')\ndef f(): ...", "5/fortnight"),
        ("from rqstack import task\n@task\ndef f(): ...\n@task\ndef f(): ...", "two tasks are named"),
    ],
)
def test_a_module_that_fails_is_named_and_hides_no_other(write: Write, source: str, said: str) -> None:
    package = write("bad", {"PACKAGE_a/tasks.py": TASK.format("gone") + source})
    write("good", {"PACKAGE_b/tasks.py": TASK.format("kept")})
    found = autodiscover()
    assert [failure.name for failure in found.failures] == [f"{package}_a.tasks"]
    assert said in found.failures[0].reason
    assert f"{package}_b.tasks.kept" in registry
    assert f"{package}_a.tasks.gone" not in registry
    with pytest.raises(TaskImportError, match=f"{package}_a.tasks"):
        found.check()


def test_a_folder_without_pyproject_is_named(write: Write, tmp_path: Path) -> None:
    package = write("bare", {"PACKAGE_a/tasks.py": TASK.format("one")}, pyproject=False)
    write("good", {"PACKAGE_b/tasks.py": TASK.format("two")})
    (tmp_path / "tasks" / "empty").mkdir()
    found = autodiscover()
    assert [str(failure) for failure in found.failures] == [
        f"{tmp_path}/tasks/bare: the project has no pyproject.toml. Write one, or move the folder elsewhere."
    ]
    assert f"{package}_b.tasks.two" in registry
    assert f"{package}_a.tasks.one" not in registry


def test_two_projects_with_one_module_name_are_told_apart(write: Write) -> None:
    package = write("first", {"PACKAGE_x/tasks.py": TASK.format("one")})
    write("second", {"PACKAGE_x/tasks.py": TASK.format("one")})
    found = autodiscover()
    assert len(found.failures) == 1
    assert f"are both the module {package}_x.tasks" in found.failures[0].reason
    assert "first" in found.failures[0].reason


def test_a_project_may_name_its_modules(write: Write) -> None:
    listed = "PACKAGE_a.jobs  # nightly\n\nPACKAGE_a.cron\n"
    files = {"rqstack-modules.txt": listed, "PACKAGE_a/jobs.py": TASK.format("one"), "PACKAGE_a/tasks.py": "1 / 0"}
    package = write("listed", {**files, "PACKAGE_a/cron.py": "1 / 0"}, pyproject=False)
    found = autodiscover()
    assert found.failures == []
    assert found.modules[f"{package}_a.jobs"] == "listed"
    assert [failure.name for failure in autodiscover(modules=(*MODULES, "cron")).failures] == [f"{package}_a.cron"]


def test_settings_choose_projects_and_name_further_modules(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write("one", {"PACKAGE_a/tasks.py": TASK.format("one"), "PACKAGE_a/more.py": TASK.format("more")})
    write("two", {"PACKAGE_b/tasks.py": "1 / 0"})
    monkeypatch.setenv("RQSTACK_PROJECTS", "one, absent")
    monkeypatch.setenv("RQSTACK_MODULES", f"{package}_a.more")
    get_settings.cache_clear()
    found = autodiscover()
    assert sorted(found.modules) == sorted([f"{package}_a.tasks", f"{package}_a.more", "rqstack.smoke"])
    assert [failure.reason.partition(".")[0] for failure in found.failures] == ["there is no such project"]


def test_a_projects_own_library_wins_over_an_installed_one(write: Write, tmp_path: Path) -> None:
    write("mine", {"PACKAGE_a/tasks.py": "import flit_core\nWHERE = flit_core.__file__\n"})
    own = tmp_path / "var" / "deps" / "mine" / "flit_core"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("")
    sys.modules.pop("flit_core", None)
    found = autodiscover()
    module = next(name for name, project in found.modules.items() if project == "mine")
    assert str(own / "__init__.py") == sys.modules[module].WHERE
    sys.modules.pop("flit_core")


def test_packages_are_searched_too(write: Write, tmp_path: Path) -> None:
    package = write("apps", {"src/PACKAGE_a/commands.py": TASK.format("one"), "src/PACKAGE_a/__init__.py": ""})
    write("apps", {"src/PACKAGE_b/__init__.py": "", "src/PACKAGE_c/__init__.py": "1 / 0"})
    sys.path.insert(0, str(tmp_path / "tasks" / "apps" / "src"))
    found = discover_packages([f"{package}_a", f"{package}_b", f"{package}_c", "json"])
    assert list(found.modules) == [f"{package}_a.commands"]
    assert [failure.name for failure in found.failures] == [f"{package}_c"]


def test_only_registered_names_resolve_and_nothing_is_imported(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write("evil", {"PACKAGE_a/helpers.py": "def helper():\n    return 1\n", "PACKAGE_a/tasks.py": ""})
    autodiscover()
    for name in ("os.system", f"{package}_a.helpers.helper", f"{package}_a.tasks", "eval", ""):
        with pytest.raises(UnknownTask):
            resolve(name)
    assert f"{package}_a.helpers" not in sys.modules
    with pytest.raises(UnknownTask, match="of an object"):
        resolve("check", instance=subprocess)
    with pytest.raises(UnknownTask):
        resolve("upper", instance="text")
    monkeypatch.setenv("RQSTACK_ALLOW_UNREGISTERED", "1")
    get_settings.cache_clear()
    assert resolve(f"{package}_a.helpers.helper")() == 1
    assert resolve("upper", instance="text")() == "TEXT"


def test_an_unknown_name_lists_near_ones(write: Write) -> None:
    package = write("near", {"PACKAGE_a/tasks.py": TASK.format("count_words")})
    write("near2", {"PACKAGE_b/tasks.py": TASK.format("twin"), "PACKAGE_c/tasks.py": TASK.format("twin")})
    autodiscover()
    with pytest.raises(UnknownTask, match=rf"Did you mean {package}_a\.tasks\.count_words"):
        registry.get("count_word")
    with pytest.raises(UnknownTask, match="is the end of 2 tasks"):
        registry.get("twin")
    with pytest.raises(UnknownTask, match="rqstack tasks list"):
        registry.get("zzz")


def command(*arguments: str) -> Any:
    line = rqstack_command("tasks", *arguments)
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_lists_and_checks(write: Write) -> None:
    options = "queue='q', retries=2, rate_limit='5/s', cron='0 3 * * *', timeout=7"
    declared = f"from rqstack import task\n@task({options})\ndef f():\n    '''First line.\n\n    More.'''\n"
    package = write("one", {"PACKAGE_a/tasks.py": declared})
    good = command("check")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == "2 tasks; 1 modules of projects load, 0 fail.\n"
    write("two", {"PACKAGE_b/tasks.py": "1 / 0"})
    listed = command("list", "--json")
    assert listed.returncode == 0
    answer = json.loads(listed.stdout)
    assert answer["tasks"][0] == {
        "name": f"{package}_a.tasks.f",
        "project": "one",
        "queue": "q",
        "retries": 2,
        "timeout": 7,
        "rate_limit": "5/second",
        "cron": "0 3 * * *",
        "description": "First line.",
    }
    assert [each["name"] for each in answer["failures"]] == [f"{package}_b.tasks"]
    table = command("list")
    assert f"{package}_a.tasks.f" in table.stdout
    assert f"{package}_b.tasks: cannot be imported: ZeroDivisionError" in table.stderr
    bad = command("check", "--traceback")
    assert bad.returncode == 1
    assert bad.stderr.startswith(f"Error: {package}_b.tasks: cannot be imported: ZeroDivisionError: division by zero (")
    assert "Traceback" in bad.stderr
    assert bad.stdout == "2 tasks; 1 modules of projects load, 1 fail.\n"
