"""Remembers every secret that the suite makes, so that it can be searched for where none may be.

The registry is a file named by an environment variable, so that processes started
by tests add to it too. Secrets made through `Secret` in the test process are
remembered by conftest; what else makes one calls `remember`. A file that is meant
to hold a secret (a token file) is named by `allow`. What runs without pytest does so
within `watched`.
"""

import base64
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rekeyd.core.secret import Secret

VARIABLE = "REKEYD_TEST_SECRETS"
"""Path of the registry's file; set by conftest for the whole session."""

# Shorter or monotonous text is no secret access key (40), token (over 20) or secret_id (36), and would be found
# by chance.
_SHORTEST = 16
_FEWEST_DIFFERENT = 8
_SEARCHABLE = re.compile(r"[A-Za-z0-9+/=._~-]+", re.ASCII)
# Runs of text long enough to hold a secret, in any of its spellings.
_RUN = re.compile(rb"[A-Za-z0-9+/=%._~-]{16,}")
_WINDOW = 12


@dataclass(frozen=True, slots=True)
class Leak:
    """The secret itself is not in it."""

    place: str
    spelling: str
    begins: str

    def __str__(self) -> str:
        return f"{self.place}: a secret that begins with {self.begins!r}, {self.spelling}"


def remember(secret: str) -> str:
    """Add the secret and give it back; text that could not be searched for without false finds is not added."""
    if len(secret) >= _SHORTEST and len(set(secret)) >= _FEWEST_DIFFERENT and _SEARCHABLE.fullmatch(secret):
        _append("secret", secret)
    return secret


def allow(path: Path) -> Path:
    """This file, or everything below this folder, is meant to hold secrets."""
    _append("allowed", str(path.absolute()))
    return path


def write_secret(path: Path, secret: str) -> Path:
    """A file as operators make them: one line, readable by its owner only."""
    remember(secret)
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    return allow(path)


def remember_every_secret() -> None:
    """From now on, all that this process makes."""
    made = Secret.__init__

    def remembering(self: Secret, value: str) -> None:
        made(self, value)
        remember(value)

    Secret.__init__ = remembering  # type: ignore[method-assign]  # the one door that every secret comes through


@contextmanager
def watched(folder: Path) -> Iterator[list[Leak]]:
    """Secrets made within the block, by this process and those that it starts, are remembered. At its end whatever
    stands below the folder is searched, and the list that the block was given holds what was found."""
    leaks: list[Leak] = []
    before = os.environ.get(VARIABLE)
    with tempfile.TemporaryDirectory(prefix="rekeyd-secrets-") as own:
        os.environ[VARIABLE] = str(Path(own) / "registry")
        try:
            yield leaks
            leaks += sorted(search(folder), key=str)
        finally:
            del os.environ[VARIABLE]
            if before is not None:
                os.environ[VARIABLE] = before


def search(folder: Path) -> set[Leak]:
    """Every file below it, for every secret remembered so far."""
    return Scanner(recorded("secret")).search_below(folder, recorded("allowed"))


def _append(kind: str, text: str) -> None:
    file = os.environ.get(VARIABLE)
    if file is None:
        return
    line = f"{kind} {base64.b64encode(text.encode()).decode()}\n".encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)  # one write: lines of several processes do not mix
    finally:
        os.close(descriptor)


def recorded(kind: str) -> set[str]:
    """Everything recorded so far: "secret" or "allowed"."""
    file = Path(os.environ[VARIABLE])
    lines = file.read_text().splitlines() if file.exists() else []
    return {base64.b64decode(text).decode() for line in lines for k, _, text in [line.partition(" ")] if k == kind}


def spellings(secret: str) -> Iterator[tuple[str, bytes]]:
    """The ways a secret could be written somewhere, each as a text to search for."""
    raw = secret.encode()
    yield "as it is", raw
    yield "URL-encoded", quote(secret, safe="").encode()
    yield "in hexadecimal", raw.hex().encode()
    # Within a longer text base64 depends on where the secret begins, modulo three; the edges mix with neighbours.
    for shift, cut in ((0, 0), (1, 2), (2, 3)):
        text = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        whole = (shift + len(raw)) * 8 // 6
        yield "in base64", text[cut:whole]
        yield "in base64", text[cut:whole].replace(b"+", b"-").replace(b"/", b"_")


class Scanner:
    """Searches bytes for all secrets at once; made when all are known."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._by_window: dict[bytes, set[tuple[bytes, str, str]]] = {}
        for secret in secrets:
            for how, text in spellings(secret):
                self._by_window.setdefault(text[:_WINDOW], set()).add((text, how, secret[:4]))

    def search(self, place: str, content: bytes) -> set[Leak]:
        leaks = set()
        for run in set(_RUN.findall(content)):
            for start in range(len(run) - _WINDOW + 1):
                for text, how, begins in self._by_window.get(run[start : start + _WINDOW], ()):
                    if run.startswith(text, start):
                        leaks.add(Leak(place, how, begins))
        return leaks

    def search_below(self, folder: Path, allowed: Iterable[str] = ()) -> set[Leak]:
        """Every regular file below the folder, except those allowed; what is gone meanwhile is passed over."""
        free = tuple(Path(path) for path in allowed)
        leaks: set[Leak] = set()
        for file in folder.rglob("*"):
            if not file.is_file() or file.is_symlink() or any(file == path or path in file.parents for path in free):
                continue
            try:
                leaks |= self.search(str(file), file.read_bytes())
            except OSError:
                continue
        return leaks
