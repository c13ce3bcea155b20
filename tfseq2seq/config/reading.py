"""Recipes read from files, and errors that say which key is wrong and how to mend it."""

import difflib
import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import pydantic

from tfseq2seq.config.run import Run
from tfseq2seq.config.table import Table


class ConfigError(ValueError):
    """A recipe cannot be used as it stands; the text says which key and how to mend it."""


def load_recipe(path: str | os.PathLike[str], overrides: dict[str, Any] | None = None) -> Run:
    """Reads a TOML recipe or a saved JSON config.

    Args:
        path: the file.
        overrides: dotted keys to values laid over the file's, as {"train.steps": 100}.
    Raises:
        ConfigError: the file cannot be read, is not TOML/JSON, or a key or value in it is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot read the recipe: {reason}") from error
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix.lstrip('.').upper() or 'TOML'}: {error}") from error
    if not isinstance(values, dict):  # JSON may hold anything
        raise ConfigError(f"{path}: 'recipe' must be a table. Received: {values!r}.")
    for key, value in (overrides or {}).items():
        _set(values, key, value, str(path))
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], where: str = "recipe") -> Run:
    """Builds a `Run` from plain values; `where` names them in errors. Raises ConfigError."""
    try:
        return Run.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(error.errors(), where))) from None


def override(run: Run, values: dict[str, Any], tables: Sequence[str]) -> Run:
    """The run with other values, as {"decode.beam_size": 8}, in some of its tables.

    Raises:
        ConfigError: a key is of another table, unknown or wrong.
    """
    if not values:
        return run
    for key in values:
        if key.split(".")[0] not in tables:
            known = [each for each in _known_keys() if each.split(".")[0] in tables]
            hint = "" if key in _known_keys() else _hint(key, known) or _hint_below(key, known)
            raise ConfigError(
                f"--set can change {' and '.join(f'{table}.*' for table in tables)} of a run that is trained.{hint} "
                f"Received: {key}")
    changed = run.model_dump(mode="json")
    for key, value in values.items():
        _set(changed, key, value, "--set")
    return parse_recipe(changed, "--set")


def save_config(run: Run, path: str | os.PathLike[str]) -> None:
    """Writes the resolved config, defaults included, as JSON that `load_recipe` reads back."""
    temporary = Path(f"{path}.writing")
    temporary.write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables in tables as one, with dotted keys: {"train": {"steps": 5}} is {"train.steps": 5}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _set(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    for depth, table in enumerate(tables, start=1):
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            table = ".".join(tables[:depth])
            raise ConfigError(f"{where}: cannot set '{key}': '{table}' is not a table. Received: {values!r}.")
    values[last] = value


def _explain(errors: Sequence[Any], where: str) -> list[str]:
    """One line for every wrong key; a key of several types is wrong once, not once a type."""
    by_key: dict[str, list[Any]] = {}
    for item in errors:
        by_key.setdefault(".".join(_walk(item["loc"]).path), []).append(item)
    return [f"{where}: {_line(key, items)}" for key, items in by_key.items()]


def _line(key: str, items: list[Any]) -> str:
    first = items[0]
    place = _walk(first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(place.table.model_fields)
        hint = _hint(place.path[-1], known) or _hint_below(place.path[-1], _known_keys())
        return f"unknown key '{key}'.{hint} Known here: {', '.join(known)}."
    if first["type"] == "missing":
        return f"'{key}' is needed: add it. Received: no value."
    if first["type"] in ("model_type", "union_tag_not_found"):
        return f"'{key or 'recipe'}' must be a table. Received: {first['input']!r}."
    if first["type"] == "union_tag_invalid":
        expected = first["ctx"]["expected_tags"].replace("'", "").split(", ")
        tag = first["ctx"]["tag"]
        return f"'{key}.kind' must be one of {', '.join(expected)}.{_hint(tag, expected)} Received: {tag!r}."
    if first["type"] == "literal_error":
        expected = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = _hint(first["input"], expected)
        return f"'{key}' must be one of {', '.join(expected)}.{hint} Received: {first['input']!r}."
    if place.tried:
        types = dict.fromkeys(_walk(item["loc"]).tried for item in items)
        return f"'{key}' must be of type {' or '.join(types)}. Received: {first['input']!r}."
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    received = "" if "Received: " in message else f". Received: {first['input']!r}"
    return f"{key and repr(key) + ': '}{message}{received}."


def _hint(received: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(received), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _hint_below(received: str, known: list[str]) -> str:
    """The key whose table was left out, as steps for train.steps."""
    names = [key.split(".")[-1] for key in known]
    close = difflib.get_close_matches(received.split(".")[-1], names, n=1)
    return f" Did you mean {known[names.index(close[0])]!r}?" if close else ""


def _known_keys() -> list[str]:
    """All keys with a default, dotted."""
    return list(flatten(Run(name="defaults").model_dump(mode="json")))


class _Place(NamedTuple):
    """Where an error is: the keys that lead there, the table that holds the last, a type tried for its value."""

    path: list[str]
    table: Any
    tried: str


def _walk(location: Sequence[str | int]) -> _Place:
    """Separates the recipe's keys in an error's location from pydantic's names for the kinds it tried."""
    path: list[str] = []
    holder: Any = None
    annotation: Any = Run
    for part in location:
        choices = [choice for choice in get_args(annotation) if choice is not type(None)]
        if type(None) in get_args(annotation) and len(choices) == 1:
            (annotation,) = choices  # pydantic names no type where there is but one
        if isinstance(annotation, type) and issubclass(annotation, Table):
            holder = annotation
            field = holder.model_fields.get(str(part))
            annotation = field and field.annotation
        elif get_origin(annotation) is list and isinstance(part, int):
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif (kinds := _kinds(annotation)) and part in kinds:
            annotation = kinds[str(part)]
            continue
        else:
            return _Place(path, holder, str(part))
        path.append(str(part))
    return _Place(path, holder, "")


def _kinds(annotation: Any) -> dict[str, Any]:
    """The tables of a union, by their `kind`; none where it is no union of tables."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    found = {}
    for choice in get_args(annotation):
        table = get_args(choice)[0] if get_origin(choice) is Annotated else choice
        if isinstance(table, type) and issubclass(table, Table) and "kind" in table.model_fields:
            found[table.model_fields["kind"].default] = table
    return found
