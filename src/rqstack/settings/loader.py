"""Reads settings into typed and checked objects: from the environment, from files, and from a framework's settings.

Settings are declared as msgspec structs, which are read and checked in compiled code: every command and every process
that enqueues loads them, and pydantic took 70 ms and 8 MB to do so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from rqstack.errors import SettingsError
from rqstack.settings.paths import home
from rqstack.settings.sources import Sources

PREFIX = "RQSTACK_"
_BOOLEANS = dict.fromkeys(("1", "true", "yes", "on", "t", "y"), True) | dict.fromkeys(
    ("0", "false", "no", "off", "f", "n"), False
)
_T = TypeVar("_T", bound="SettingsBase")


class SecretStr:
    """A text that neither `repr()` nor a log shows.

    Args:
        value: The text.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The text."""
        return self._value

    def __repr__(self) -> str:
        return "SecretStr('**********')" if self._value else "SecretStr('')"

    def __str__(self) -> str:
        return "**********" if self._value else ""

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


class SettingsBase(msgspec.Struct, frozen=True, kw_only=True, rename=lambda field: f"{PREFIX}{field.upper()}"):
    """What declares settings: each field has a type, a default, a description, and the environment variable as name.

    A field's `Meta` may have these extras: `also`, a second environment variable, and `check`, called with the value,
    which raises a ValueError with what is allowed.

    An object has the values that it is given and defaults for the rest; `load` makes one from the environment.

    Raises:
        SettingsError: A value is not allowed. One line a setting.
    """

    def __post_init__(self) -> None:
        problems = []
        for field, setting in declared_settings(type(self)).items():
            value = getattr(self, field)
            if value is not setting.default:
                try:
                    msgspec.structs.force_setattr(self, field, setting.read(value))
                except ValueError as error:
                    problems.append(setting.problem(value, error))
        if problems:
            raise SettingsError("\n".join(problems))


class Setting(NamedTuple):
    """One declared setting.

    Args:
        field: The name of the field.
        names: Its environment variables, its own one first.
        type: Its whole type, with limits.
        kind: What the type comes down to, without limits and None.
        limits: The `Meta` of its type.
        default: Its default.
    """

    field: str
    names: tuple[str, ...]
    type: Any
    kind: Any
    limits: tuple[msgspec.Meta, ...]
    default: Any

    @property
    def name(self) -> str:
        """The environment variable."""
        return self.names[0]

    @property
    def description(self) -> str:
        """One line: what it is."""
        return next((limit.description for limit in self.limits if limit.description), "")

    @property
    def group(self) -> str:
        """The title of its group."""
        return next((limit.extra["group"] for limit in self.limits if limit.extra and "group" in limit.extra), "")

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown."""
        return self.kind is SecretStr

    def read(self, value: Any) -> Any:
        """The value in its type, from text or from Python.

        Raises:
            ValueError: It is not allowed; the error says what is.
        """
        if isinstance(value, str) and self.kind not in (str, SecretStr):
            value = value.strip()
            if get_origin(self.kind) is tuple:
                value = tuple(part.strip() for part in value.split(",") if part.strip())
            elif self.kind is bool:
                value = _BOOLEANS.get(value.lower(), value)
            elif self.kind in (int, float):
                value = _number(value)
        try:
            value = msgspec.convert(value, self.type, strict=False, dec_hook=_dec_hook)
        except msgspec.ValidationError:
            raise ValueError(self.allowed()) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(self.allowed())
        for limit in self.limits:
            if limit.extra and "check" in limit.extra:
                limit.extra["check"](value)
        return value

    def problem(self, value: Any, error: ValueError) -> str:
        """What to tell a person about a value that `read` refused; no secret is in it."""
        shown = "(hidden)"
        if not self.is_secret:
            # All before an @ is a user's name and password, which may have slashes of its own.
            shown = re.sub(r"'(\w+:/*)?.*@", r"'\1***@", repr(value))
            shown = re.sub(r"(password=)[^&']+", r"\1***", shown)
        return f"{self.name}: {shown} is not allowed: should be {error}."

    def allowed(self) -> str:
        """What its type allows, in words."""
        if get_origin(self.kind) is Literal:
            return " or ".join(map(repr, get_args(self.kind)))
        if get_origin(self.kind) is tuple:
            least = any(limit.min_length for limit in self.limits)
            return "names, separated by commas, at least one" if least else "names, separated by commas"
        words = {bool: "1 or 0", int: "a whole number", float: "a number"}.get(self.kind, "text")
        for limit in self.limits:
            bounds = ((limit.ge, "at least"), (limit.gt, "above"), (limit.le, "at most"))
            if said := " and ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None):
                words += f", {said}"
        return words


def group(title: str) -> Callable[..., msgspec.Meta]:
    """Start a group of settings, which are declared next to each other.

    Returns:
        A function that makes the `Meta` of a field in this group. It takes the description, `also` for a second
        environment variable, and limits such as `ge`, as `Meta` does.
    """

    def meta(description: str, *, also: str = "", **limits: Any) -> msgspec.Meta:
        extra = {"group": title, "also": also} if also else {"group": title}
        return msgspec.Meta(description=description, extra=extra, **limits)

    return meta


@lru_cache(maxsize=8)
def declared_settings(cls: type[SettingsBase]) -> dict[str, Setting]:
    """What a class declares, by the name of the field."""
    found = {}
    for field in msgspec.structs.fields(cls):
        kind, limits = _unwrap(field.type)
        also = [limit.extra["also"] for limit in limits if limit.extra and "also" in limit.extra]
        names = (field.encode_name, *also)
        found[field.name] = Setting(field.name, names, field.type, kind, tuple(limits), field.default)
    return found


def _unwrap(kind: Any) -> tuple[Any, list[msgspec.Meta]]:
    """A type without `Annotated` and `| None`, and what `Annotated` said."""
    limits: list[msgspec.Meta] = []
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            limits += more
        elif get_origin(kind) in (Union, UnionType):
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        else:
            return kind, limits


def _number(text: str) -> Any:
    """A number as Python reads it (msgspec reads JSON's only); not a number, if it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return math.nan


def _dec_hook(kind: type, value: Any) -> Any:
    """A `Path` or `SecretStr`, from its text too, for msgspec."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        raise ValueError
    return kind(value)


def explicit_values(cls: type[SettingsBase]) -> dict[str, Any]:
    """The values that some source gives, as written, by field name; settings left at their default are missing.

    Raises:
        SettingsError: A file cannot be read or parsed.
    """
    sources = Sources()
    found = {}
    for setting in declared_settings(cls).values():
        if given := sources.find(*setting.names, secret=setting.is_secret):
            found[setting.field] = given.value
    return found


def load(cls: type[_T], **wanted: Any) -> _T:
    """Read settings of a class, from the environment and the files of `home()`.

    Args:
        cls: `Settings` or `StackSettings`.
        wanted: Values that win over every other source, by field name.

    Raises:
        SettingsError: A value is not allowed, or a file cannot be read. One line a setting.
    """
    given = explicit_values(cls) | wanted
    try:
        return cls(**given)
    except SettingsError as error:
        where = f"Set it in the environment or in {home() / '.env'}."
        raise SettingsError("\n".join(f"{line} {where}" for line in str(error).splitlines())) from None
