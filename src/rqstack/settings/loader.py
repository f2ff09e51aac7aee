"""Loads settings into typed, checked objects.

Settings are declared as msgspec structs, which convert and check values in compiled code. Every command and every
process that enqueues loads them; pydantic took 70 ms and 8 MB for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from rqstack.errors import SettingsError
from rqstack.settings.paths import home
from rqstack.settings.redaction import safe_repr, safe_url
from rqstack.settings.sources import Sources

PREFIX = "RQSTACK_"
_BOOLEANS = dict.fromkeys(("1", "true", "yes", "on", "t", "y"), True) | dict.fromkeys(
    ("0", "false", "no", "off", "f", "n"), False
)
_T = TypeVar("_T", bound="SettingsBase")


class SecretStr:
    """A string that `repr()`, `str()` and so logs do not show."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The string itself."""
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
    """Base of classes that declare settings.

    Each field has a type, a default, its environment variable as encoded name, and a `Meta` from `group`. The `extra`
    of a `Meta` may have `also`, a second environment variable, and `check`, a function that raises a ValueError with
    what is allowed.

    An instance has the values passed to it and defaults for the rest. `load` takes them from the environment.

    Raises:
        SettingsError: A value is not allowed. One line per setting.
    """

    def __post_init__(self) -> None:
        errors = []
        for field, setting in declared_settings(type(self)).items():
            value = getattr(self, field)
            if value is not setting.default:
                try:
                    msgspec.structs.force_setattr(self, field, setting.convert(value))
                except ValueError as error:
                    errors.append(setting.error_message(value, error))
        if errors:
            raise SettingsError("\n".join(errors))

    def __repr__(self) -> str:
        shown = ((field, getattr(self, field)) for field in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(f'{field}={_without_passwords(value)!r}' for field, value in shown)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(field, _without_passwords(getattr(self, field))) for field in self.__struct_fields__]


def _without_passwords(value: Any) -> Any:
    return safe_url(value) if isinstance(value, str) else value


class Setting(NamedTuple):
    """One declared setting.

    Args:
        names: Its environment variables, the main one first.
        type: As declared, with `Annotated` and None.
        kind: The type without `Annotated` and None.
        metadata: Every `Meta` in its type.
    """

    field: str
    names: tuple[str, ...]
    type: Any
    kind: Any
    metadata: tuple[msgspec.Meta, ...]
    default: Any

    @property
    def name(self) -> str:
        """Its main environment variable."""
        return self.names[0]

    @property
    def description(self) -> str:
        """One line for a reader of `.env.example`."""
        return next((meta.description for meta in self.metadata if meta.description), "")

    @property
    def group(self) -> str:
        """The title of its group."""
        return next((meta.extra["group"] for meta in self.metadata if meta.extra and "group" in meta.extra), "")

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown."""
        return self.kind is SecretStr

    def convert(self, value: Any) -> Any:
        """A value in the type of this setting.

        Args:
            value: A string, as in the environment, or a Python object.

        Raises:
            ValueError: The value is not allowed; the error says what is.
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
        for meta in self.metadata:
            if meta.extra and "check" in meta.extra:
                meta.extra["check"](value)
        return value

    def error_message(self, value: Any, error: ValueError) -> str:
        """One line about a value that `convert` refused, without any secret."""
        shown = "(hidden)" if self.is_secret else safe_repr(value)
        return f"{self.name}: {shown} is not allowed: should be {error}."

    def allowed(self) -> str:
        """What its type and limits allow, in words."""
        if get_origin(self.kind) is Literal:
            return " or ".join(map(repr, get_args(self.kind)))
        if get_origin(self.kind) is tuple:
            needs_one = any(meta.min_length for meta in self.metadata)
            return "names, separated by commas, at least one" if needs_one else "names, separated by commas"
        words = {bool: "1 or 0", int: "a whole number", float: "a number"}.get(self.kind, "text")
        for meta in self.metadata:
            bounds = ((meta.ge, "at least"), (meta.gt, "above"), (meta.le, "at most"))
            if limits := " and ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None):
                words += f", {limits}"
        return words


def group(title: str) -> Callable[..., msgspec.Meta]:
    """Start a group of settings, which are declared next to each other.

    Returns:
        A function that makes the `Meta` of a field in this group. It takes the description, `also` for a second
        environment variable, `check` for a function as in `SettingsBase`, and limits such as `ge`, as `Meta` does.
    """

    def meta(
        description: str, *, also: str = "", check: Callable[[Any], None] | None = None, **limits: Any
    ) -> msgspec.Meta:
        extra: dict[str, Any] = {"group": title}
        if also:
            extra["also"] = also
        if check:
            extra["check"] = check
        return msgspec.Meta(description=description, extra=extra, **limits)

    return meta


@lru_cache(maxsize=8)
def declared_settings(cls: type[SettingsBase]) -> dict[str, Setting]:
    """The settings of a class, by field name, in the order of declaration."""
    found = {}
    for field in msgspec.structs.fields(cls):
        kind, metadata = _unwrap(field.type)
        also = [meta.extra["also"] for meta in metadata if meta.extra and "also" in meta.extra]
        names = (field.encode_name, *also)
        found[field.name] = Setting(field.name, names, field.type, kind, tuple(metadata), field.default)
    return found


def _unwrap(kind: Any) -> tuple[Any, list[msgspec.Meta]]:
    """A type without `Annotated` and `| None`, and the metadata of each `Annotated`."""
    metadata: list[msgspec.Meta] = []
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            metadata += more
        elif get_origin(kind) in (Union, UnionType):
            (kind,) = (part for part in get_args(kind) if part is not NoneType)
        else:
            return kind, metadata


def _number(text: str) -> Any:
    """A number in Python's notation (msgspec reads only JSON's); NaN, which no setting allows, if it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return math.nan


def _dec_hook(kind: type, value: Any) -> Any:
    """Converts strings to `Path` and `SecretStr`, which msgspec does not know."""
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
            found[setting.field], _source = given
            if setting.is_secret:
                _secrets_read.add((setting.field, str(found[setting.field])))
    return found


_secrets_read: set[tuple[str, str]] = set()


def is_from_sources(field: str, secret: SecretStr | None) -> bool:
    """Whether a secret is one that `load` has found in the sources, in this process; not one that the program gave."""
    return secret is not None and (field, secret.get_secret_value()) in _secrets_read


def load(cls: type[_T], **overrides: Any) -> _T:
    """Load the settings of a class from the sources that `rqstack.settings.sources` lists.

    Args:
        cls: `Settings` or `StackSettings`.
        overrides: Values that win over every source, by field name.

    Raises:
        SettingsError: A value is not allowed, one line per setting; or a file cannot be read.
    """
    values = explicit_values(cls) | overrides
    try:
        return cls(**values)
    except SettingsError as error:
        where = f"Set it in the environment or in {home() / '.env'}."
        raise SettingsError("\n".join(f"{line} {where}" for line in str(error).splitlines())) from None
