"""Releases of task code by the command line: install, refuse, roll back, prune, under readers that never see half."""

from __future__ import annotations

import json
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from rqstack.errors import RqstackError
from rqstack.stack.build_projects import BuildFailed, build, copy_outside_projects, project_name
from rqstack.stack.releases import NoRelease, ReleaseRefused, Releases
from support.processes import rqstack_command


def package(folder: Path, version: int, body: str = "") -> Path:
    """What `rqstack tasks build` makes of one project."""
    project = folder / "shop"
    (project / "shop").mkdir(parents=True, exist_ok=True)
    (project / "shop" / "__init__.py").write_text("")
    (project / "shop" / "tasks.py").write_text(
        f"from rqstack import task\n{body}\nVERSION = {version}\n@task\ndef version():\n    return VERSION\n"
    )
    (project / "rqstack-modules.txt").write_text("shop.tasks\n")
    return folder


def command(*arguments: str, root: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    line = rqstack_command("tasks", *arguments, "--into", str(root))
    return subprocess.run(line, capture_output=True, text=True, check=check)


def current_version(root: Path) -> str:
    text = (root / "current" / "shop" / "shop" / "tasks.py").read_text()
    return text.partition("VERSION = ")[2].split()[0]


def test_by_the_command_line(tmp_path: Path) -> None:
    root = tmp_path / "volume"
    source = package(tmp_path / "packages", 1)
    first = command("install", str(source), root=root).stdout
    assert "installed: shop." in first
    assert "is already current" in command("install", str(source), root=root).stdout
    package(source, 2)
    command("install", str(source), root=root)
    assert current_version(root) == "2"
    listed = json.loads(command("releases", "--json", root=root).stdout)
    assert [(each["current"], each["projects"]) for each in listed] == [(False, ["shop"]), (True, ["shop"])]
    assert "is current again" in command("rollback", root=root).stdout
    assert current_version(root) == "1"
    # A start of the stack installs what its image holds; that does not undo the rollback. A deploy does.
    command("install", str(source), root=root)
    assert current_version(root) == "1"
    command("install", str(source), "--again", root=root)
    assert current_version(root) == "2"
    assert command("rollback", "20", root=root, check=False).stderr.startswith("Error: No single release matches '20'")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("this is no python", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(7)", "code 7"),
    ],
    ids=["import", "syntax", "exit", "crash"],
)
def test_a_release_that_does_not_import_is_refused(tmp_path: Path, body: str, reason: str) -> None:
    root = tmp_path / "volume"
    command("install", str(package(tmp_path / "packages", 1)), root=root)
    before = sorted(path.name for path in (root / "releases").iterdir())
    done = command("install", str(package(tmp_path / "packages", 2, body)), root=root, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The release ")
    assert "is refused; the running one stays. shop: " in done.stderr
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert current_version(root) == "1"
    assert sorted(path.name for path in (root / "releases").iterdir()) == before


def test_one_broken_project_is_named_among_others(tmp_path: Path) -> None:
    source = package(tmp_path / "packages", 1)
    broken = source / "bakery"
    broken.mkdir()
    (broken / "bakery_tasks.py").write_text("1 / 0\n")
    (broken / "rqstack-modules.txt").write_text("bakery_tasks\n")
    with pytest.raises(ReleaseRefused, match=r"bakery: .*ZeroDivisionError") as raised:
        Releases(tmp_path / "volume").install(source)
    assert "shop:" not in str(raised.value)


def test_each_project_is_imported_with_its_own_libraries(tmp_path: Path) -> None:
    source = package(tmp_path / "packages", 1, "import library; assert library.V == 1")
    (source / "shop" / "library.py").write_text("V = 1\n")
    other = source / "bakery"
    other.mkdir()
    (other / "library.py").write_text("V = 2\n")
    (other / "bakery_tasks.py").write_text(
        "import library; assert library.V == 2\nfrom rqstack import task\n@task\ndef bake(): ...\n"
    )
    (other / "rqstack-modules.txt").write_text("bakery_tasks\n")
    release, new = Releases(tmp_path / "volume").install(source)
    assert new
    assert release.projects == ("bakery", "shop")


def test_old_releases_go_and_the_current_one_never(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "volume", keep=3)
    ids = [releases.install(package(tmp_path / "packages", number))[0].id for number in range(5)]
    assert [release.id for release in releases.all()] == ids[-3:]
    assert releases.rollback(ids[2]).id == ids[2]
    last = releases.install(package(tmp_path / "packages", 5))[0].id
    assert [release.id for release in releases.all()] == [*ids[3:], last]
    releases.rollback()
    releases.rollback()
    with pytest.raises(NoRelease, match="no release before the current one"):
        releases.rollback()


def test_a_reader_always_finds_a_whole_release(tmp_path: Path) -> None:
    root = tmp_path / "volume"
    releases = Releases(root, keep=2)
    releases.install(package(tmp_path / "packages", 0))
    seen: list[int] = []
    problems: list[Exception] = []
    end = threading.Event()

    def read() -> None:
        while not end.is_set():
            try:
                seen.append(int(current_version(root)))
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 6):
            releases.install(package(tmp_path / "packages", number))
    finally:
        end.set()
        reader.join()
    assert not problems
    assert seen == sorted(seen)


def test_what_a_killed_installation_left_goes(tmp_path: Path) -> None:
    releases = Releases(tmp_path / "volume")
    left = releases.folder / ".20200101T000000000-abc"
    left.mkdir(parents=True)
    releases.install(package(tmp_path / "packages", 1))
    assert not left.exists()


def test_nothing_to_install(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    done = command("install", str(tmp_path / "packages"), root=tmp_path / "volume", check=False)
    assert done.returncode == 1
    assert "contains no task project" in done.stderr


def test_what_cannot_be_built_is_named(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    (tasks / "shop").mkdir(parents=True)
    with pytest.raises(BuildFailed, match=r"shop: the project has no pyproject.toml"):
        build([tasks], tmp_path / "packages", print)
    about = tasks / "shop" / "pyproject.toml"
    for text, reason in (("[project", "not valid TOML"), ("[project]\n", "no valid name")):
        about.write_text(text)
        with pytest.raises(BuildFailed, match=reason):
            build([tasks], tmp_path / "packages", print)
    with pytest.raises(BuildFailed, match="no such folder"):
        build([tmp_path / "none"], tmp_path / "packages", print)


def test_projects_from_outside_are_copied(tmp_path: Path) -> None:
    checkout = tmp_path / "somewhere" / "checkout"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text('[project]\nname = "bakery"\n')
    wheel = tmp_path / "somewhere" / "acme_jobs-1.0-py3-none-any.whl"
    wheel.write_bytes(b"")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    copy_outside_projects([checkout, wheel], tasks)
    copies = sorted((tasks / ".outside").iterdir())
    assert [project_name(path) for path in copies] == ["acme_jobs", "bakery"]
    assert not (tasks / ".outside" / "checkout" / ".git").exists()
    copy_outside_projects([], tasks)
    assert not (tasks / ".outside").exists()
    with pytest.raises(RqstackError, match=r"TASKS_OUTSIDE: .* is neither a wheel nor a folder"):
        copy_outside_projects([tmp_path / "nowhere"], tasks)


def test_a_relative_target_is_the_callers_and_sources_stay_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "tasks" / ".outside"
    outside.mkdir(parents=True)
    wheel = outside / "bakery-1.0-py3-none-any.whl"
    info = "bakery-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("bakery/tasks.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bakery\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.chdir(tmp_path)
    assert build([Path("tasks")], Path("packages"), print) == ["bakery"]
    assert (tmp_path / "packages" / "bakery" / "rqstack-modules.txt").read_text() == "bakery.tasks\n"
    assert sorted(path.name for path in (tmp_path / "packages").iterdir()) == ["bakery"]
    assert list(outside.iterdir()) == [wheel]
