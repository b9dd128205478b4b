"""The lives that real processes are disturbed in: kinds of calls, moments, and how each life cycle is set going."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rekeyd.demo.consumer import Consumer
from rekeyd.demo.emulator import Rule
from tests.acceptance.stand import Running, eventually

if TYPE_CHECKING:
    from tests.crash.process_world import CrashWorld

When = Literal["before", "after", "answered"]
WHENS: tuple[When, ...] = ("before", "after", "answered")


@dataclass(frozen=True, slots=True)
class Call:
    """A kind of call, told apart as far as a life can: `about` is the life's user, rekeyd itself, or the mark."""

    service: str
    op: str
    about: Literal["user", "self", "mark"]

    def __str__(self) -> str:
        return f"{self.service} {self.op} ({self.about})"

    @property
    def changes(self) -> bool:
        """Whether the other side is not as before when it has acted."""
        return self.op.startswith(("Create", "Update", "Delete", "PUT", "PATCH", "DELETE")) or (
            self.op.startswith("POST") and "capabilities" not in self.op
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """The nth call of its kind in a life (from 1): before it was sent, after it acted, after it was answered."""

    call: Call
    nth: int
    when: When

    def __str__(self) -> str:
        return f"{self.when} {self.call} #{self.nth}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    name: str
    policy: dict[str, object] = field(default_factory=dict)
    prepare: Callable[["CrashWorld", "Life"], None]
    """Up to the moment from which calls count."""
    begin: Callable[["CrashWorld", "Life"], None] = lambda _world, _life: None
    """What sets the life going, right after that moment."""


@dataclass(slots=True, kw_only=True)
class Life:
    """One user from the beginning of its cycle to its rest."""

    cycle: Cycle
    user_name: str
    expected_dead: set[str] = field(default_factory=set)
    """Keys that another hand killed: a consumer that has them fails, and that is not our fault."""
    first_key: str | None = None
    may_end: bool = False
    """The daemon is asked to end in it: that it does, with 0, is no fault."""
    reloads: int = 0
    """How often the daemon had read its configuration again when the life was armed with a signal."""
    aws_from: int = 0
    vault_from: int = 0
    command: Running | None = None
    """By which a person set it going."""
    rules: list[Rule] = field(default_factory=list)
    struck: int = 0
    wrongs: list[str] = field(default_factory=list)
    consumer: Consumer | None = None
    consumer_thread: threading.Thread | None = None
    failures: Path | None = None
    polls: int = 0
    seconds: float = 0.0


def _until_event(world: "CrashWorld", life: Life, name: str) -> None:
    """A line of the daemon's log about this user; the daemon runs undisturbed."""
    assert world.daemon is not None
    daemon = world.daemon

    def told() -> bool:
        return any(line["event"] == name and line.get("principal") == life.user_name for line in daemon.events)

    eventually(told, f"{name} of {life.user_name}", alive=daemon)


def _due(world: "CrashWorld", life: Life) -> None:
    life.first_key = world.stand.user(life.user_name).key.access_key_id


def _nothing(world: "CrashWorld", life: Life) -> None:
    """The user appears only when calls are counted already."""


def _unmanaged(world: "CrashWorld", life: Life) -> None:
    life.first_key = world.stand.user(life.user_name, held=False).key.access_key_id


def _without_key(world: "CrashWorld", life: Life) -> None:
    world.stand.user(life.user_name, key_age=None)


def _young(world: "CrashWorld", life: Life) -> None:
    life.first_key = world.stand.user(life.user_name, key_age=timedelta(days=1)).key.access_key_id
    eventually(lambda: world.entry(life) is not None, "a first look at the user", alive=world.daemon)


def _in_overlap(world: "CrashWorld", life: Life) -> None:
    _due(world, life)
    _until_event(world, life, "key.published")


def _in_quarantine(world: "CrashWorld", life: Life) -> None:
    _due(world, life)
    _until_event(world, life, "key.deactivated")


def _published_once(world: "CrashWorld", life: Life) -> None:
    _due(world, life)
    _until_event(world, life, "rotation.closed")
    life.first_key = world.stand.held_id(life.user_name)


def _emergency(world: "CrashWorld", life: Life) -> None:
    world.command(life, "rotate-now", life.user_name, "--emergency", "--yes", "--json")


def _rollback(world: "CrashWorld", life: Life) -> None:
    world.command(life, "rollback", life.user_name, "--yes", "--json")


def _held_key_deleted(world: "CrashWorld", life: Life) -> None:
    assert life.first_key is not None
    life.expected_dead.add(life.first_key)
    world.stand.aws.delete_key(life.first_key)


CYCLES = (
    Cycle(name="rotate", prepare=_nothing, begin=_due),
    Cycle(name="adopt", policy={"adopt": "at-once"}, prepare=_nothing, begin=_unmanaged),
    Cycle(name="create", policy={"create": True}, prepare=_nothing, begin=_without_key),
    Cycle(name="emergency", prepare=_young, begin=_emergency),
    Cycle(name="rollback", policy={"overlap": "10m"}, prepare=_in_overlap, begin=_rollback),
    Cycle(name="reactivate", policy={"quarantine": "10m"}, prepare=_in_quarantine, begin=_rollback),
    Cycle(name="repair", policy={"repair": "issue"}, prepare=_published_once, begin=_held_key_deleted),
)
BY_NAME = {cycle.name: cycle for cycle in CYCLES}
