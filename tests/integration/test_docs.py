"""The commands in the documents: every fenced block is run, every other line that names a command names a real one.

The blocks of a document are run in order, in one shell, in a fresh copy of the checkout, on a machine as bare as a test
can make it: no Docker, no Redis server, no Prometheus. What needs Docker is run by tests/compose/test_docs.py; what is
marked `<!-- not run here: FILE -->` is run by FILE.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rqstack.cli.group import cli
from support.web_server import serve

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"(?:<!-- (?P<mark>[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
SHELL = ("bash", "console", "sh", "shell")
RUN_HERE = ("README.md", "docs/local.md", "CONTRIBUTING.md")
NOT_ON_A_BARE_MACHINE = re.compile(r"docker.*|redis-.*|valkey-.*|prometheus|promtool|rqstack|honcho|pip.*|uv")
PAGE = "<html><body><p>five words on this page</p></body></html>"


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """The shell commands of a document: (mark, text)."""
    for match in BLOCK.finditer(document.read_text()):
        if match["language"] in SHELL:
            yield match["mark"] or "", match["text"]


def here(document: Path) -> list[str]:
    return [text for mark, text in blocks(document) if not mark]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_is_run_by_some_test(document: Path) -> None:
    for mark, text in blocks(document):
        kind, _, where = mark.partition(": ")
        if kind == "not run here":
            assert (ROOT / where).is_file(), f"{where} runs this, says {document}, and is not there: {text}"
        elif mark:
            assert mark == "run: compose", f"{document}: what is {mark!r}?"
            assert document.name in (ROOT / "tests" / "compose" / "test_docs.py").read_text()
        elif str(document.relative_to(ROOT)) not in RUN_HERE:
            # A page with a test of its own, which reads it.
            tests = [path for path in ROOT.glob("tests/**/test_*.py") if path.name != Path(__file__).name]
            assert any(document.name in path.read_text() for path in tests), f"nobody runs this of {document}: {text}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith(("    ", "$ "))]
    lines += [line for _, block in blocks(document) for line in block.splitlines()]
    lines += re.findall(r"`((?:make|rqstack|\.venv/bin/rqstack) [^`\n]+)`", text)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines:
        for words in re.findall(r"(?:^|[/|&(] ?)make ((?:[a-z][a-z-]+)|[A-Z]+=\S+ [a-z-]+)", line):
            assert words.split()[-1] in targets, f"{document}: {line}"
        for words in re.findall(r"(?:^|[/(|&] ?)rqstack ((?:[a-z-]+ ?)+)", line):
            command: click.Command = cli
            for word in words.split():
                if not isinstance(command, click.Group):
                    break
                found = command.get_command(click.Context(command), word)
                assert found is not None, f"{document}: there is no `rqstack {words}`"
                command = found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document} links to {target}"


def test_the_picture_shows_what_its_text_says() -> None:
    text = re.sub(r"//.*", "", (ROOT / "docs" / "architecture.dot").read_text())
    picture = (ROOT / "docs" / "architecture.svg").read_text().replace("&#45;", "-").replace("&lt;", "<")
    picture = picture.replace("&gt;", ">")
    for label in re.findall(r'label="([^"]+)"', text):
        for line in label.split("\\n"):
            assert f">{line}</text>" in picture, f"{line}: run `make diagram`"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The address of a page of five words, on a server of this machine."""
    with serve(tmp_path / "pages", PAGE) as address:
        yield f"http://{address}/"


def copy_checkout(target: Path) -> None:
    """What a clone would hold, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    names = [name.decode() for name in listed.stdout.split(b"\0") if name]
    if listed.returncode or not names:
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".venv*", "var", ".env", ".git", "__pycache__"))
        return
    for name in names:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def bare_path(folder: Path) -> str:
    """A PATH with what this machine has, but nothing that the stack could lean on."""
    folder.mkdir()
    for place in ("/usr/local/bin", "/usr/bin", "/bin"):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            if not NOT_ON_A_BARE_MACHINE.fullmatch(program.name) and not program.name.startswith("python"):
                link = folder / program.name
                if not link.exists() and not link.is_symlink():
                    link.symlink_to(program)
    (folder / "python3").symlink_to(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    return str(folder)


@pytest.fixture(scope="session")
def index() -> None:
    """The package index, or a skip that says why not."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed", "--no-deps", "six"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("index")
def test_the_documents_work_on_a_bare_machine(tmp_path: Path, page: str) -> None:
    checkout = tmp_path / "rqstack"
    copy_checkout(checkout)
    script = ["set -euo pipefail"]
    for name in RUN_HERE:
        script += [f"echo '== {name}'"]
        script += here(ROOT / name)
    text = "\n".join(script).replace("https://example.com", page)
    environment = {
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "MODE": "local",
        "RQSTACK_PRIVATE_HOSTS": "127.0.0.1",
        "PATH": bare_path(tmp_path / "bin"),
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_proxy")},
    }
    try:
        # The same way to packages as this test has; HOME is another.
        for name in (".config/pip/pip.conf", ".pip/pip.conf"):
            if (config := Path.home() / name).is_file():
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(config, tmp_path / name)
        done = subprocess.run(
            ["bash", "-c", text], cwd=checkout, env=environment, capture_output=True, text=True, timeout=800
        )
        said = done.stdout
        assert done.returncode == 0, f"{said}\n{done.stderr}"
    finally:
        subprocess.run(["make", "stop"], cwd=checkout, env=environment, capture_output=True)
    assert "No redis-server or valkey-server on PATH" in said
    assert "prometheus is not on PATH" in said
    lines = said.splitlines()
    assert "5" in lines, "the words of the page"
    assert "45.0" in lines, "the total of the shop"
    assert sum(line.startswith("worker.") for line in lines) >= 4
