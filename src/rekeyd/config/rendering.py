"""The configuration shown: what is in force, its schema, and the file to begin with. None of it can hold a secret."""

import json
import re
from pathlib import Path as FilePath
from typing import Any

from rekeyd.config.models import Config

# TOML has dates of its own, JSON has not: these stand without quotes. By their place, for a tag or a field of the
# secret may have any name.
_DATES: dict[tuple[str, ...], tuple[str, ...]] = {("fleet", "freezes"): ("from", "to")}


def effective(config: Config) -> dict[str, Any]:
    """Every setting with its value in force, fit for JSON: durations and dates as text, None for what is not set."""
    return config.model_dump(mode="json", by_alias=True)


def as_toml(config: Config) -> str:
    """The same as a file that `load` reads to the same configuration; what is not set is left out."""
    lines: list[str] = []
    _table(effective(config), (), lines)
    return "\n".join(lines).strip() + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors. What two settings must agree on is not in it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(mode="validation", by_alias=True),
        "title": "rekeyd configuration",
    }


def example() -> str:
    """The text of config.example.toml: every setting with its default, in observe mode."""
    return (FilePath(__file__).parent / "example.toml").read_text(encoding="utf-8")


def _table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    scalars = {key: value for key, value in table.items() if value is not None and not _is_table(value)}
    tables = {key: value for key, value in table.items() if _is_table(value)}
    if path and (scalars or not tables):
        lines += ["", f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(key)} = {_inline(value)}" for key, value in scalars.items()]
    for key, value in tables.items():
        if isinstance(value, dict):
            _table(value, (*path, key), lines)
            continue
        dates = _DATES.get((*path, key), ())
        for item in value:
            lines += ["", f"[[{'.'.join(map(_key, (*path, key)))}]]"]
            lines += [
                f"{_key(name)} = {inner if name in dates else _inline(inner)}"
                for name, inner in item.items()
                if inner is not None
            ]


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else _text(name)


def _text(value: str) -> str:
    # JSON escapes as TOML's basic strings do, except DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{_key(name)} = {_inline(inner)}" for name, inner in value.items() if inner is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, str):
        return _text(value)
    return json.dumps(value)
