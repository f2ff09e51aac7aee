"""A real stack under compose for each test module: its own home, project name and ports; always taken down."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.compose_stack import ComposeStack, engine_answers

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    without = bool(mine) and not engine_answers()
    for item in mine:
        item.add_marker(pytest.mark.compose)
        # The first test of a module waits for images to be built and for every service to be healthy.
        item.add_marker(pytest.mark.timeout(600))
        if without:
            item.add_marker(pytest.mark.skip(reason="no Docker engine with compose answers"))


def page(number: int) -> str:
    """A page that shows as many words as its number."""
    words = " ".join(f"word{index}" for index in range(number))
    return f"<html><head><style>no words</style></head><body><p>{words}</p></body></html>"


@pytest.fixture
def new_stack(tmp_path: Path) -> Iterator[ComposeStack]:
    """A stack that is not started."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    stack = ComposeStack(tmp_path)
    try:
        yield stack
    finally:
        stack.close()
        stack.environment.pop("DOCKER_HOST", None)
        stack.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ComposeStack]:
    """The stack with eight workers, the tests' own projects and a web server, started as `make start` does."""
    home = tmp_path_factory.mktemp("stack")
    # Its files are mounted into containers that run as other users.
    for folder in (home, *home.parents[:2]):
        folder.chmod(0o755)
    stack = ComposeStack(home)
    try:
        for project in (HERE / "projects").iterdir():
            shutil.copytree(project, home / "tasks" / project.name)
        shutil.copy2(HERE / "override.yml", home / "docker-compose.override.yml")
        (home / "pages").mkdir()
        for number in range(1, 201):
            (home / "pages" / f"{number}.html").write_text(page(number))
        stack.start("--scale", "worker=8")
        yield stack
    except BaseException:
        print(stack.show())
        raise
    finally:
        stack.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the stack's containers and logs with a failure."""
    report = yield
    given = getattr(item, "funcargs", {})
    stack = given.get("stack") or given.get("new_stack")
    if report.failed and isinstance(stack, ComposeStack):
        report.sections.append(("the stack", stack.show()))
    return report
