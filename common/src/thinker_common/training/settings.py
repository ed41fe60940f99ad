"""Settings: nested dataclasses, filled from a YAML recipe and from `section.key=value` overrides.

A dataclass is the schema. Its annotations say what a value may be, its `__post_init__` says which values are possible
(raise `SettingsError` with a message that starts with the field's own name; the section is put in front here).
A field annotated `dict[str, Any]` holds arguments of somebody else's configuration class, checked by `check_arguments`.
"""

import dataclasses
import difflib
import enum
import functools
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import SettingsError
from .plain_yaml import dump_yaml, parse_yaml

T = TypeVar("T")


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """Field name -> annotation, of a dataclass."""
    return get_type_hints(cls)


# -------------------------------------------------------------------------------------------------------------- loading


def load_settings(cls: type[T], *, recipe_text: str | None, recipe_name: str, overrides: Sequence[str]) -> T:
    """Settings from a recipe (None: the defaults of `cls`) and overrides such as `model.lora.r=8`, which win.

    Raises SettingsError: not YAML, an unknown key (with the nearest that exists), a value that is not accepted.
    """
    tree: Any = {} if recipe_text is None else parse_yaml(recipe_text, recipe_name)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{recipe_name}: a recipe is a mapping of sections ({_sections(cls)}), got {_shown(tree)}")
    overridden = []
    for override in overrides:
        path, value = _parse_override(override)
        _set(tree, path, value)
        overridden.append(".".join(path))

    def source_of(path: str) -> str:
        # An override speaks for everything below it, and for the sections that it is part of.
        path = path.replace("[", ".") + "."
        return (
            "command line" if any(path.startswith(o + ".") or o.startswith(path) for o in overridden) else recipe_name
        )

    try:
        return _build(cls, tree, "", _Check(known=known_names(cls), source_of=source_of))
    except RecursionError as error:
        raise SettingsError(f"{recipe_name}: nested too deeply") from error


def to_yaml(settings: Any) -> str:
    """The resolved settings as YAML; `load_settings` of the text gives equal settings."""
    return dump_yaml(_plain(dataclasses.asdict(settings)))


def check_arguments(
    arguments: Mapping[str, Any],
    config_class: type,
    *,
    section: str = "training",
    managed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments for the dataclass `config_class`, checked and coerced against its fields.

    `managed`: arguments that are not the user's to set, and what to use instead (`{"output_dir": "--output"}`).
    Raises SettingsError as `load_settings` does, with `section` in front of each name.
    """
    for name in arguments:
        if managed and name in managed:
            raise SettingsError(f"{section}.{name} cannot be set here: use {managed[name]}")
    hints = _hints(config_class)
    fields = [f.name for f in dataclasses.fields(config_class) if f.init and f.name not in (managed or {})]
    check = _Check(known=[f"{section}.{name}" for name in fields], source_of=lambda path: "")
    checked = {}
    for name, value in arguments.items():
        if name not in fields:
            raise check.unknown(f"{section}.{name}")
        checked[name] = _coerce(value, hints[name], f"{section}.{name}", check)
    return checked


def known_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of all sections and settings below a settings dataclass."""
    names = []
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        names.append(prefix + field.name)
        nested = _dataclass_in(hints[field.name])
        if nested is not None:
            names.extend(known_names(nested, f"{prefix}{field.name}."))
    return names


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known dotted name that `name` was probably meant to be, or None.

    In this order: the same last part in another section, the closest spelling in the same section, then in any.
    """
    known = list(known)
    section, _, leaf = name.rpartition(".")
    same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
    if same_leaf:
        return difflib.get_close_matches(name, same_leaf, n=1, cutoff=0.0)[0]
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    everywhere = {k.rpartition(".")[2]: k for k in known}
    for names, cutoff in ((siblings, 0.6), (everywhere, 0.75)):
        close = difflib.get_close_matches(leaf, names, n=1, cutoff=cutoff)
        if close:
            return names[close[0]]
    return None


# ------------------------------------------------------------------------------------------------------------ overrides


def _parse_override(override: str) -> tuple[list[str], Any]:
    name, equals, text = override.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise SettingsError(
            f"{_shown(override)} is not a setting: write section.key=value, for example training.max_steps=20"
        )
    return path, parse_yaml(text, f"setting {_shown(override)}")


def _set(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Puts a value into nested dicts. Missing and null sections on the way are made; `_build` judges the rest."""
    *sections, key = path
    for depth, section in enumerate(sections, start=1):
        if tree.get(section) is None:
            tree[section] = {}
        if not isinstance(tree[section], dict):
            name = ".".join(path[:depth])
            raise SettingsError(
                f"{_name('.'.join(path))} cannot be set: {_name(name)} is the value {_shown(tree[section])}"
            )
        tree = tree[section]
    tree[key] = value


# ----------------------------------------------------------------------------------------- checking against annotations


@dataclasses.dataclass(frozen=True)
class _Check:
    """What an error message needs to know: all names that exist, and where the value at a dotted path came from."""

    known: Sequence[str]
    source_of: Any  # dotted path -> source, "" for none

    def unknown(self, path: str) -> SettingsError:
        nearest = nearest_name(path, self.known)
        if nearest is not None:
            advice = f"; did you mean {nearest!r}?"
        elif "." not in path:
            sections = ", ".join(name for name in self.known if "." not in name)
            advice = f"; a setting is named SECTION.KEY, and the sections are {sections}"
        else:
            parent = path.rpartition(".")[0] + "."
            siblings = [n.removeprefix(parent) for n in self.known if n.startswith(parent)]
            advice = f"; {parent[:-1]} has {', '.join(siblings)}" if 0 < len(siblings) <= 20 else ""
        return SettingsError(f"{self._at(path)}unknown setting {_shown(path)}{advice}")

    def refused(self, path: str, value: Any, accepted: str) -> SettingsError:
        return SettingsError(f"{self._at(path)}{_name(path)} = {_shown(value)}: expected {accepted}")

    def _at(self, path: str) -> str:
        source = self.source_of(path)
        return f"{source}: " if source else ""


def _build(cls: type[T], tree: Mapping[Any, Any], path: str, check: _Check) -> T:
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    prefix = f"{path}." if path else ""
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for name, value in tree.items():
        if name not in fields:
            raise check.unknown(f"{prefix}{name}")
        values[name] = _coerce(value, hints[name], f"{prefix}{name}", check)
    try:
        return cls(**values)
    except SettingsError as error:
        raise SettingsError(f"{check._at(path) if path else ''}{prefix}{error}") from error
    except TypeError as error:
        missing = [
            f"{prefix}{f.name}"
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        if not missing:
            raise
        raise SettingsError(f"{check._at(path)}{', '.join(missing)} must be set") from error


def _coerce(value: Any, hint: Any, path: str, check: _Check) -> Any:
    """The value as its annotation wants it, or SettingsError. An annotation not treated here accepts any value."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _coerce_union(value, get_args(hint), path, check)
    if origin is Literal:
        for choice in get_args(hint):
            if value == choice and type(value) is type(choice):
                return value
        raise check.refused(path, value, _accepted(hint))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise check.refused(path, value, _accepted(hint))
        return _build(hint, value, path, check)  # type: ignore[arg-type]
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise check.refused(path, value, _accepted(hint))
        item = (get_args(hint) or (Any,))[0]
        items = [_coerce(v, item, f"{path}[{i}]", check) for i, v in enumerate(value)]
        return tuple(items) if tuple in (origin, hint) else items
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            raise check.refused(path, value, _accepted(hint))
        item = (get_args(hint) or (str, Any))[1]
        return {k: _coerce(v, item, f"{path}.{k}", check) for k, v in value.items()}
    if hint in _SIMPLE:
        coerced = _SIMPLE[hint][1](value)
        if coerced is None:
            raise check.refused(path, value, _accepted(hint))
        return coerced
    if hint is types.NoneType:
        if value is not None:
            raise check.refused(path, value, "null")
        return None
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [member.value for member in hint]:
            raise check.refused(path, value, _accepted(hint))
        return value
    return value


def _coerce_union(value: Any, arms: Sequence[Any], path: str, check: _Check) -> Any:
    """The first arm of just this type, else the first that can be coerced. `str | SomeEnum` means the enum's values."""
    enums = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, enum.Enum)]
    if enums:
        arms = [arm for arm in arms if arm is not str]
    nested = [arm for arm in arms if dataclasses.is_dataclass(arm)]
    if nested and isinstance(value, dict):  # its own errors say more than "expected one of"
        return _coerce(value, nested[0], path, check)
    exact = [arm for arm in arms if isinstance(arm, type) and type(value) is arm]
    for arm in [*exact, *arms]:
        try:
            return _coerce(value, arm, path, check)
        except SettingsError:
            continue
    raise check.refused(path, value, " or ".join(dict.fromkeys(_accepted(arm) for arm in arms)))


def _as_bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _as_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _as_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None
    return number if math.isfinite(number) else None


def _as_text(value: Any) -> str | None:
    # A revision, a column or a file may be named by digits alone; leading zeros never became a number (see _SCALARS).
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _as_path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, (str, Path)) and str(value) else None


_SIMPLE: dict[Any, tuple[str, Any]] = {
    bool: ("true or false", _as_bool),
    int: ("a whole number", _as_int),
    float: ("a finite number", _as_float),
    str: ("text (quoted, if it looks like a number or a truth value)", _as_text),
    Path: ("a path", _as_path),
}


def _accepted(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_accepted(arm) for arm in get_args(hint)))
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if dataclasses.is_dataclass(hint):
        return f"a section with {_sections(hint)}"  # type: ignore[arg-type]
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return "a list, such as [a, b]"
    if origin in (dict, Mapping) or hint is dict:
        return "a mapping, such as {key: value}"
    if hint in _SIMPLE:
        return str(_SIMPLE[hint][0])
    if hint is types.NoneType:
        return "null"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    return "another value"


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass in `Section` or `Section | None`, if there is one."""
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((arm for arm in arms if isinstance(arm, type) and dataclasses.is_dataclass(arm)), None)


def _sections(cls: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cls))


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _name(text: str) -> str:
    """A dotted name as messages show it, whatever characters the user put into it."""
    return _shown(text)[1:-1]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.value if isinstance(value, enum.Enum) else value
