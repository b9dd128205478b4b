"""What a disk holds after a power cut: everything that was synced, and nothing else for sure.

    recorded = Recorder(folder).run([...], below=disk, environment={})
    for moment, found in recorded.cuts([place for place, _ in recorded.said], into):
        ...                              # `found` holds the files as the next start finds them

A library that is loaded into the process notes what it asks of the disk. The strict reading of POSIX: `fsync` of a file
saves what is in it, `fsync` of a directory saves which names it has. What came later may be there or not; `keep` says
of each such change whether it made it to the disk.
"""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Keep = Callable[[], bool]
_HEAD = struct.Struct("<cIqI")
_SOURCE = Path(__file__).with_name("disk_recorder.c")


def compiler() -> str | None:
    """None: this machine has none."""
    return shutil.which("cc")


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that the process asked of the disk; the kinds are explained in the library's source."""

    kind: str
    path: Path
    offset: int
    data: bytes


@dataclass(slots=True)
class _File:
    """Also a directory, whose content is the names in it."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Asked] = field(default_factory=list)
    names: dict[str, "_File"] = field(default_factory=dict)
    """As they are synced; only for directories."""
    changes: list[tuple[str, "_File | None"]] = field(default_factory=list)
    """Of names, not synced; None: gone."""
    is_directory: bool = False

    def sync(self) -> None:
        self.synced, self.unsynced = bytearray(self.now), []
        for name, made in self.changes:
            _rename(self.names, name, made)
        self.changes = []

    def living(self, name: str) -> "_File | None":
        """What the name stands for while the power is on."""
        for changed, made in reversed(self.changes):
            if changed == name:
                return made
        return self.names.get(name)


class Disk:
    """A folder that was empty when the process began."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = _File(is_directory=True)

    def do(self, asked: Asked) -> None:
        path = asked.path
        if path == self._folder:
            self._root.sync()
            return
        parent = self._find(path.parent)
        if parent is None:
            return
        match asked.kind:
            case "c" | "d":
                parent.changes.append((path.name, _File(is_directory=asked.kind == "d")))
            case "u":
                parent.changes.append((path.name, None))
            case "r":
                parent.changes += [(Path(os.fsdecode(asked.data)).name, parent.living(path.name)), (path.name, None)]
            case "s":
                self._need(path).sync()
            case "w" | "t":
                file = self._need(path)
                _apply(file.now, asked)
                file.unsynced.append(asked)
            case _:
                raise ValueError(asked.kind)

    def leave(self, into: Path, keep: Keep) -> None:
        """The files as they are found when the power is back."""
        into.mkdir(parents=True)
        self._leave(self._root, into, keep)

    def _leave(self, directory: _File, into: Path, keep: Keep) -> None:
        names = dict(directory.names)
        for name, made in directory.changes:
            if keep():
                _rename(names, name, made)
        for name, file in names.items():
            if file.is_directory:
                (into / name).mkdir()
                self._leave(file, into / name, keep)
                continue
            content = bytearray(file.synced)
            for asked in file.unsynced:
                if keep():
                    _apply(content, asked)
            (into / name).write_bytes(content)

    def _find(self, path: Path) -> _File | None:
        found: _File | None = self._root
        for name in path.relative_to(self._folder).parts:
            found = None if found is None else found.living(name)
        return found

    def _need(self, path: Path) -> _File:
        found = self._find(path)
        if found is None:
            raise AssertionError(f"{path} was changed, and nobody saw it being made")
        return found


def _rename(names: dict[str, _File], name: str, made: _File | None) -> None:
    if made is None:
        names.pop(name, None)
    else:
        names[name] = made


def _apply(content: bytearray, asked: Asked) -> None:
    if asked.kind == "t":
        del content[asked.offset :]
        content.extend(bytes(asked.offset - len(content)))
        return
    content.extend(bytes(max(0, asked.offset - len(content))))
    content[asked.offset : asked.offset + len(asked.data)] = asked.data


@dataclass(frozen=True, slots=True)
class Recorded:
    folder: Path
    asked: tuple[Asked, ...]

    @property
    def said(self) -> list[tuple[int, str]]:
        """Each line on stdout, with how much had been asked of the disk by then."""
        lines = [(place, asked.data.decode()) for place, asked in enumerate(self.asked) if asked.kind == "a"]
        return [(place, line) for place, text in lines for line in text.split()]

    def synced(self) -> int:
        return sum(asked.kind == "s" for asked in self.asked)

    def cuts(self, moments: Sequence[int], into: Path, *, keep: Keep = lambda: False) -> Iterator[tuple[int, Path]]:
        """For each moment, ascending: the folder as the power cut leaves it."""
        disk, done = Disk(self.folder), 0
        for moment in moments:
            for asked in self.asked[done:moment]:
                if asked.kind != "a":
                    disk.do(asked)
            done = moment
            disk.leave(into / str(moment), keep)
            yield moment, into / str(moment)


class Recorder:
    def __init__(self, folder: Path) -> None:
        """Compiles the library into `folder`."""
        self._folder = folder
        self._library = folder / "disk_recorder.so"
        command = [
            compiler() or "cc",
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-o",
            str(self._library),
            str(_SOURCE),
            "-ldl",
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)

    def run(self, command: Sequence[str], *, below: Path, environment: Mapping[str, str]) -> Recorded:
        """The process to its end; `below` is the folder that counts, and is empty."""
        record = self._folder / f"{below.name}.record"
        ours = {"LD_PRELOAD": str(self._library), "DISK_FOLDER": str(below), "DISK_RECORD": str(record)}
        ended = subprocess.run(
            command, env={**environment, **ours}, check=False, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stderr
        return Recorded(below, tuple(_read(record.read_bytes())))


def _read(content: bytes) -> Iterator[Asked]:
    at = 0
    while at < len(content):
        kind, path, offset, data = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        name, at = os.fsdecode(content[at : at + path]), at + path
        yield Asked(kind.decode(), Path(name), offset, content[at : at + data])
        at += data
