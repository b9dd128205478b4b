"""Reading the configuration: file, environment, checks; every mistake at once.

Order of authority: REKEYD_SECTION__KEY, the file, $VAULT_…, the default. If a value is
wrong by itself, the rules between settings still run, with a stand-in for it, and
what they say about that value is left out.
"""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rekeyd.config.environment import FromEnvironment, read_environment
from rekeyd.config.models import Config
from rekeyd.config.positions import Path, Position, find_positions
from rekeyd.config.problems import ConfigProblemsError, Problem, dotted, shown
from rekeyd.config.rules import Disagreement, disagreements
from rekeyd.config.shape import keys_of, looks_secret, model_at, nearest

Raw = dict[str, Any]

# Needed to go on past a required value that is missing or wrong; rules about such a value are not told.
_STAND_INS: Mapping[str, object] = {
    "address": "https://stand-in.invalid",
    "id": "000000000000",
    "role_name": "stand-in",
    "name": "stand-in",
    "cron": "0 0 * * *",
    "duration": "1h",
    "from": "2000-01-01",
    "to": "2000-01-01",
    "reason": "stand-in",
    "vault": {"address": "https://stand-in.invalid", "auth": {"token_file": "stand-in"}},
}


def load(path: FilePath | str, environ: Mapping[str, str]) -> Config:
    """Read and check the configuration; relative paths of files count from the folder of `path`.

    Raises `ConfigProblemsError`, a `ConfigError`, with every mistake.
    """
    file = FilePath(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _alone(file, "no such file", hint=f"`rekeyd config init > {file}` writes one to begin with") from None
    except UnicodeDecodeError:
        raise _alone(file, "is not UTF-8 text") from None
    except OSError as error:
        raise _alone(file, f"cannot be read: {error.strerror}") from error
    return _anchored(parse(text, environ, source=str(file)), file.parent)


def parse(text: str, environ: Mapping[str, str], *, source: str = "config") -> Config:
    """The same for a text; paths of files stay as they are written."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigProblemsError([_syntax(str(error), source)]) from None
    return _Reading(raw, find_positions(text), read_environment(environ), source).config()


class _Reading:
    """One file with its places; collects what is wrong with it."""

    def __init__(self, raw: Raw, places: Mapping[Path, Position], given: FromEnvironment, source: str) -> None:
        self._raw = raw
        self._places = places
        self._source = source
        self._variables: dict[Path, str] = {}
        self._problems: list[Problem] = [
            _variable_problem(variable, message, hint) for variable, message, hint in given.mistakes
        ]
        for variable, (path, value) in given.overrides.items():
            self._give(variable, path, value, over=True)
        for variable, (path, value) in given.fallbacks.items():
            self._give(variable, path, value, over=False)

    def config(self) -> Config:
        """Raises `ConfigProblemsError`."""
        config, wrong = self._validated()
        if config is not None:
            for found in disagreements(config):
                if not any(_touches(path, bad) for path in (found.at, *found.others) for bad in wrong):
                    self._problems.append(self._disagreement(found))
        if self._problems or config is None:
            raise ConfigProblemsError(sorted(set(self._problems), key=_order))
        return config

    def _give(self, variable: str, path: Path, value: object, *, over: bool) -> None:
        table: Any = self._raw
        for part in path[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
        # Not a table: the file itself is wrong there, which is told with its place.
        if isinstance(table, dict) and (over or path[-1] not in table):
            table[path[-1]] = value
            self._variables[path] = variable

    def _validated(self) -> tuple[Config | None, list[Path]]:
        """The configuration with stand-ins for what is wrong, and the paths of the latter."""
        raw = copy.deepcopy(self._raw)
        wrong: list[Path] = []
        first = True
        # Each round removes at least one wrong value; a stand-in for a table may need a second one.
        for _ in range(4):
            try:
                return Config.model_validate(raw), wrong
            except ValidationError as error:
                details = error.errors(include_url=False, include_input=False)
            if first:
                self._problems += [self._invalid(detail) for detail in details]
            first = False
            paths = sorted((_path_of(detail) for detail in details), key=_depth_first, reverse=True)
            for path in paths:
                wrong.append(path)
                _replace(raw, path)
        return None, wrong

    def _invalid(self, detail: ErrorDetails) -> Problem:
        path = _path_of(detail)
        message, hint = _words(detail)
        secret = False
        if detail["type"] == "extra_forbidden":
            message, hint, secret = _unknown_key(path)
        if detail["type"] == "missing":
            hint = _HINTS_IF_MISSING.get(dotted(path), hint)
        return self._problem(path, message, hint, secret=secret)

    def _disagreement(self, found: Disagreement) -> Problem:
        return self._problem(found.at, found.message, found.hint, secret=found.secret)

    def _problem(self, path: Path, message: str, hint: str | None, *, secret: bool) -> Problem:
        value = _lookup(self._raw, path)
        withheld = secret or any(isinstance(part, str) and looks_secret(part) for part in path)
        text = None if withheld else shown(value)
        variable = next((v for p, v in self._variables.items() if path[: len(p)] == p), None)
        if variable is not None:
            return Problem(
                source=f"${variable}", line=None, column=None, key=dotted(path), value=text, message=message, hint=hint
            )
        place = next((self._places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._places), None)
        return Problem(
            source=self._source,
            line=None if place is None else place.line,
            column=None if place is None else place.column,
            key=dotted(path),
            value=text,
            message=message,
            hint=hint,
        )


_HINTS_IF_MISSING: Mapping[str, str] = {
    "vault": "at least `[vault]` with address and `[vault.auth]`",
    "vault.address": "set vault.address or $VAULT_ADDR",
}

_TYPE_WORDS: Mapping[str, tuple[str, str | None]] = {
    "missing": ("is missing", None),
    "string_type": ("must be text in quotes", None),
    "int_type": ("must be a whole number without quotes", None),
    "int_from_float": ("must be a whole number", None),
    "bool_type": ("must be true or false, without quotes", None),
    "tuple_type": ("must be a list: [ … ]", None),
    "dict_type": ("must be a table", None),
    "model_type": ("must be a table", None),
    "model_attributes_type": ("must be a table", None),
    "date_type": ("must be a date: 2026-12-20, without quotes", None),
    "date_parsing": ("is not a date such as 2026-12-20", None),
    "date_from_datetime_parsing": ("is not a date such as 2026-12-20", None),
    "date_from_datetime_inexact": ("must be a date without a time: 2026-12-20", None),
    "string_too_short": ("must not be empty", None),
}


def _words(detail: ErrorDetails) -> tuple[str, str | None]:
    context = detail.get("ctx", {})
    match detail["type"]:
        case "rekeyd":
            return str(context["said"]), context.get("hint")
        case "enum":
            return f"must be one of {context['expected']}".replace("'", '"'), None
        case "greater_than_equal":
            return f"must be {context['ge']} or more", None
        case "less_than_equal":
            return f"must be {context['le']} or less", None
        case kind if kind in _TYPE_WORDS:
            return _TYPE_WORDS[kind]
        case _:
            # pydantic's own words never hold the value for the kinds of values used here.
            return detail["msg"][:1].lower() + detail["msg"][1:], None


def _unknown_key(path: Path) -> tuple[str, str | None, bool]:
    """Message, hint, and whether the value may be a secret."""
    key = str(path[-1])
    model = model_at(Config, path[:-1])
    known = keys_of(model) if model is not None else {}
    if f"{key}_file" in known:
        return (
            "a secret does not belong into the configuration",
            f'write it into a file and its path here: {key}_file = "/etc/rekeyd/{key}"',
            True,
        )
    if looks_secret(key):
        near = nearest(f"{key}_file", [name for name in known if name.endswith("_file")])
        tables = _tables_with(f"{key}_file")
        where = f"[{tables[0]}] {key}_file" if tables else near
        return (
            "is no setting, and a secret does not belong into the configuration",
            None if where is None else f"write it into a file and its path here: {where}",
            True,
        )
    if key == "kv_version":
        # docs/decisions/0008-kv-version-1.md
        return (
            "is no setting: the mount must be KV version 2, since version 1 has no check-and-set",
            "leave it out; a mount of version 1 is upgraded by: vault kv enable-versioning MOUNT",
            False,
        )
    near = nearest(key, known)
    if near is not None:
        return "unknown key", f"did you mean {near}?", False
    elsewhere = _tables_with(key)
    if elsewhere:
        return "unknown key", f"it belongs into [{elsewhere[0]}]", False
    return "unknown key", ("known here: " + ", ".join(known)) if known else None, False


def _tables_with(key: str) -> list[str]:
    found = []
    for section in Config.model_fields:
        for path in ((section,), (section, 0), (section, "auth"), (section, "fields")):
            model = model_at(Config, path)
            if model is not None and key in keys_of(model):
                found.append(dotted(tuple(part for part in path if isinstance(part, str))))
    return found


def _path_of(detail: ErrorDetails) -> Path:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _lookup(raw: object, path: Path) -> object:
    for part in path:
        try:
            raw = raw[part]  # type: ignore[index]  # not a table or list: the except below
        except (KeyError, IndexError, TypeError):
            return None
    return raw


def _replace(raw: Raw, path: Path) -> None:
    """Take the wrong value out; what may not be left out gets a stand-in."""
    holder = _lookup(raw, path[:-1])
    last = path[-1] if path else None
    stand_in = copy.deepcopy(_STAND_INS.get(str(last)))
    if isinstance(holder, dict):
        model = model_at(Config, path[:-1])
        required = model is not None and any(
            (field.alias or name) == last and field.is_required() for name, field in model.model_fields.items()
        )
        if required and stand_in is not None:
            holder[last] = stand_in
        else:
            holder.pop(last, None)
    elif isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        # Deeper and later paths come first, so that the indices of the others stay true.
        del holder[last]


def _depth_first(path: Path) -> list[tuple[int, str, int]]:
    return [(0, part, 0) if isinstance(part, str) else (1, "", part) for part in path]


def _touches(path: Path, bad: Path) -> bool:
    """Whether one of them is within the other; deleted list elements move the indices behind them."""
    shared = min(len(path), len(bad))
    if isinstance(bad[-1], int) and len(path) >= len(bad) and path[: len(bad) - 1] == bad[:-1]:
        return True
    return path[:shared] == bad[:shared]


def _order(problem: Problem) -> tuple[bool, int, int, str, str]:
    return (problem.line is None, problem.line or 0, problem.column or 0, problem.source, problem.key + problem.message)


def _alone(file: FilePath, message: str, hint: str | None = None) -> ConfigProblemsError:
    problem = Problem(source=str(file), line=None, column=None, key="", value=None, message=message, hint=hint)
    return ConfigProblemsError([problem])


def _variable_problem(variable: str, message: str, hint: str | None) -> Problem:
    return Problem(source=f"${variable}", line=None, column=None, key="", value=None, message=message, hint=hint)


def _syntax(words: str, source: str) -> Problem:
    """tomllib says `… (at line 3, column 7)` or `… (at end of document)`."""
    message, _, _ = words.partition(" (at ")
    place = re.search(r"\(at line (\d+), column (\d+)\)", words)
    # A message may quote the text around the place, which may be a secret.
    said = re.sub(r"'.*'", "a character", message)
    return Problem(
        source=source,
        line=None if place is None else int(place.group(1)),
        column=None if place is None else int(place.group(2)),
        key="",
        value=None,
        message=f"is not TOML: {said[:1].lower()}{said[1:]}",
        hint=None if place is not None else "the file ends too early: a quote or a bracket is not closed",
    )


def _anchored(config: Config, folder: FilePath) -> Config:
    """Every setting whose name ends in `_file`, as a path that does not depend on the working directory."""

    def walk(settings: BaseModel) -> Iterator[tuple[str, object]]:
        for name in type(settings).model_fields:
            value = getattr(settings, name)
            if name.endswith("_file") and isinstance(value, str):
                yield name, str((folder / value).absolute())
            elif isinstance(value, BaseModel):
                yield name, value.model_copy(update=dict(walk(value)))
            elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
                yield name, tuple(item.model_copy(update=dict(walk(item))) for item in value)

    return config.model_copy(update=dict(walk(config)))
