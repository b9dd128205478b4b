"""What is wrong with a configuration: where, which key, which value, and what to do."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from rekeyd.config.durations import format_duration
from rekeyd.config.positions import Path
from rekeyd.errors import ConfigError
from rekeyd.logs import redacted

# User and password of a URL, whatever the key is called.
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
# A value longer than this would hide the message behind it.
_LONGEST_VALUE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    source: str
    """The file, or the environment variable with its dollar sign."""
    line: int | None
    """From 1; None: the problem has no place in the file (a missing table, a variable)."""
    column: int | None
    key: str
    """Dotted: `policies[0].max_age`; empty for the file as a whole."""
    value: str | None
    """As written, shortened; None: not given, or withheld because it may be a secret."""
    message: str
    hint: str | None

    @property
    def where(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"

    def __str__(self) -> str:
        what = self.key if self.value is None else f"{self.key} = {self.value}"
        text = ": ".join(part for part in (self.where, what, self.message) if part)
        return text if self.hint is None else f"{text}\n  hint: {self.hint}"

    def as_json(self) -> dict[str, str | int | None]:
        return {
            "source": self.source,
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "value": self.value,
            "message": self.message,
            "hint": self.hint,
        }


class ConfigProblemsError(ConfigError):
    """The configuration is wrong; `problems` holds every mistake, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} mistake{'s' if len(self.problems) != 1 else ''} in the configuration"
        super().__init__("\n".join([count, *(str(problem) for problem in self.problems)]))


def dotted(path: Path) -> str:
    """`("policies", 0, "max_age")` as `policies[0].max_age`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str | None:
    """The value as the file spells it, shortened; None where there is nothing short to show (tables)."""
    match value:
        case None | dict():
            return None
        case timedelta():
            return json.dumps(format_duration(value))
        case bool() | int() | float() | str():
            text = json.dumps(redacted(value), ensure_ascii=False)
        case list() | tuple():
            text = json.dumps(redacted(value), ensure_ascii=False, default=str)
        case _:
            text = str(value)
    text = _USERINFO.sub("…@", text)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"
