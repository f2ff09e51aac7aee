"""Where the value of a setting comes from: the order of sources, how files are read, and what is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rqstack.errors import SettingsError
from rqstack.settings import sources
from rqstack.settings.sources import Sources, read_env_file

ORDER = ["environment", "REDIS_PASSWORD_FILE", "var/stack.env", ".env", "framework"]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_sources_win_in_the_documented_order(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source gives a value, but those before the first give an empty one, or no file."""
    values = ["" if number < first else source for number, source in enumerate(ORDER)]
    (tmp_path / "var").mkdir()
    (tmp_path / "password").write_text(f"{values[1]}\n")
    (tmp_path / "var" / "stack.env").write_text(f"REDIS_PASSWORD={values[2]}\n")
    (tmp_path / ".env").write_text(f"REDIS_PASSWORD={values[3]}\n")
    monkeypatch.setenv("REDIS_PASSWORD", values[0])
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "password") if values[1] else "")
    monkeypatch.setitem(sources.framework_settings, "REDIS_PASSWORD", values[4])
    assert Sources().find("REDIS_PASSWORD", secret=True) == (ORDER[first], ORDER[first])


def test_no_source_gives_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.framework_settings, "REDIS_URL", None)
    assert Sources().find("REDIS_URL") is None


@pytest.mark.parametrize("value", [False, 0, ()])
def test_a_framework_may_give_a_value_that_is_false(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.framework_settings, "RQSTACK_RELOAD", value)
    assert Sources().find("RQSTACK_RELOAD") == (value, "framework")


def test_a_second_name_yields_to_the_first_within_a_source_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SECOND=2\nFIRST=1\n")
    assert Sources().find("FIRST", "SECOND") == ("1", ".env")
    monkeypatch.setenv("SECOND", "two")
    assert Sources().find("FIRST", "SECOND") == ("two", "environment")


def test_only_a_secret_is_read_from_a_named_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("redis://file/0\n")
    monkeypatch.setenv("REDIS_URL_FILE", str(tmp_path / "url"))
    assert Sources().find("REDIS_URL") is None
    assert Sources().find("REDIS_URL", secret=True) == ("redis://file/0", "REDIS_URL_FILE")


def test_a_file_is_parsed_as_compose_and_shells_write_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "redis.example")
    lines = [
        "\ufeff# a byte order mark",
        "export A='single # quoted'",
        'B="two\\nlines"  # comment',
        "c=lower case",
        "D=redis://${HOST}/${DATABASE:-0}",
        "E=${A} again",
        "F=",
        "G",
        "c=last",
        "C=again",
    ]
    (tmp_path / "file.env").write_text("\n".join(lines), encoding="utf-8")
    assert read_env_file(tmp_path / "file.env") == {
        "A": "single # quoted",
        "B": "two\nlines",
        "C": "again",
        "D": "redis://redis.example/0",
        "E": "single # quoted again",
    }


def test_a_file_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    assert read_env_file(tmp_path / "none.env") == {}
    assert read_env_file(tmp_path) == {}


def test_a_broken_line_is_an_error_that_does_not_show_it(tmp_path: Path) -> None:
    (tmp_path / "file.env").write_text("A=1\nKEY='sesame\n")
    with pytest.raises(SettingsError, match=r"file\.env, line 2: this is not NAME=value\. Perhaps") as problem:
        read_env_file(tmp_path / "file.env")
    assert "sesame" not in str(problem.value)


def test_only_the_standard_library_is_imported() -> None:
    """`rqstack health` reads settings every few seconds in every container."""
    code = (
        "import sys; before = set(sys.modules); from rqstack.settings.sources import Sources; Sources()\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['rqstack']\n"
