"""Where in a TOML text each key stands: tomllib does not tell, nor does any kept library without a C extension.

Only for text that tomllib has accepted: the scanner knows where things end, not
whether they are right.
"""

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""("policies", 0, "max_age"): keys, and indices into arrays."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\r\n#]*")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
# Up to two quotes may stand right before the closing three.
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2}(?!"))', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'''(?:'{0,2}(?!'))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Position:
    """Both counted from 1."""

    line: int
    column: int


def find_positions(text: str) -> dict[Path, Position]:
    """The position of every table header, key and array element; of a table, its first mention."""
    scanner = _Scanner(text)
    scanner.document()
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    positions = {}
    for path, offset in scanner.offsets.items():
        line = bisect_right(starts, offset)
        positions[path] = Position(line, offset - starts[line - 1] + 1)
    return positions


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tables: dict[Path, int] = {}
        """How many elements each array of tables has so far."""
        self.offsets: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK_LINES) < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return self._at

    def _header(self) -> Path:
        start = self._at
        brackets = 2 if self._text.startswith("[[", start) else 1
        self._at += brackets
        keys = self._key()
        self._at += brackets
        path: Path = ()
        for key in keys[:-1]:
            path = self._latest((*path, key))
            self.offsets.setdefault(path, start)
        path = (*path, keys[-1])
        if brackets == 1:
            path = self._latest(path)
        else:
            self.offsets.setdefault(path, start)
            self._tables[path] = self._tables.get(path, 0) + 1
            path = (*path, self._tables[path] - 1)
        self.offsets.setdefault(path, start)
        return path

    def _latest(self, path: Path) -> Path:
        """A header below an array of tables means that array's last element."""
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANK)
            start = self._at
            quoted = self._text[start] in "\"'"
            self._skip({'"': _BASIC, "'": _LITERAL}.get(self._text[start], _BARE))
            name = self._text[start : self._at]
            keys.append(_unquoted(name) if quoted else name)
            self._skip(_BLANK)
            if self._text[self._at : self._at + 1] != ".":
                return keys
            self._at += 1

    def _pair(self, table: Path) -> None:
        start = self._at
        path = table
        for key in self._key():
            path = (*path, key)
            self.offsets.setdefault(path, start)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        match self._text[self._at]:
            case '"':
                self._skip(_LONG_BASIC if self._text.startswith('"""', self._at) else _BASIC)
            case "'":
                self._skip(_LONG_LITERAL if self._text.startswith("'''", self._at) else _LITERAL)
            case "[":
                self._elements(path, closing="]")
            case "{":
                self._elements(path, closing="}")
            case _:
                self._skip(_SCALAR)

    def _elements(self, path: Path, *, closing: str) -> None:
        self._at += 1
        index = 0
        while self._text[self._skip(_BLANK_LINES)] != closing:
            if closing == "}":
                self._pair(path)
            else:
                self.offsets.setdefault((*path, index), self._at)
                self._value((*path, index))
                index += 1
            self._skip(_BLANK_LINES)
            if self._text[self._at] == ",":
                self._at += 1
        self._at += 1


def _unquoted(name: str) -> str:
    if name[0] == "'":
        return name[1:-1]
    (key,) = tomllib.loads(f"{name} = 0")
    return key
