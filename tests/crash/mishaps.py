"""What else may happen at any call of a life: the journal is lost, or is an old copy, or the process stands still.

* **lost**: the process dies, and the next one finds no journal.
* **old copy**: it dies, and the next one finds the journal as it was some calls before.
* **frozen**: it stands still while another process takes the account over and works for half an hour, then goes on.

No promise may break. A frozen process must leave everything to come to rest without help; without its journal a life
may also end where only a person can say whose a key is.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from rekeyd.core.actions import Refuse
from rekeyd.errors import Error, LeaseLostError, StoppingError
from rekeyd.fleet.account import Worked
from tests.crash.cycles import USER, Cycle, Watch, drive, one_pass, rested, start, wrongs
from tests.crash.matrix import Killer, Moment
from tests.rig import DAY, Rig
from tests.world import Crash
from tests.world.points import Phase

_MINUTES = timedelta(minutes=5)
_MOST_PASSES = 250


class Mishap(StrEnum):
    LOST = "journal lost"
    OLD_COPY = "old copy"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class Ended:
    mishap: Mishap
    moment: Moment
    wrong: list[str]
    struck: int
    at_rest: bool
    """Without a person."""

    def __str__(self) -> str:
        return f"{self.mishap} {self.moment}"


def chosen(cycle: Cycle, mishap: Mishap, moments: Iterable[Moment], count: int, seed: int) -> list[Moment]:
    """Every moment of a rotation; of other lives so many. A process that stands still after a call stands still before
    the next one."""
    fitting = [moment for moment in moments if mishap is not Mishap.FROZEN or moment.phase == "before"]
    if cycle.name == "rotate":
        return fitting
    draw = random.Random(f"{seed}/{mishap}/{cycle.name}")  # noqa: S311 - repeatable, not secret
    return draw.sample(fitting, min(count, len(fitting)))


def run(cycle: Cycle, mishap: Mishap, moment: Moment) -> Ended:
    if mishap is Mishap.FROZEN:
        return _frozen(cycle, moment)
    rig, watch = start(cycle)
    copies = _Copies(rig, moment)
    killer = Killer(rig.world, [moment])
    at_rest = False
    for _ in range(_MOST_PASSES):
        worked = None
        try:
            worked = one_pass(rig)
        except Crash:
            if mishap is Mishap.OLD_COPY:
                rig.restore(copies.kept)
            else:
                rig.lose_journal()
        except StoppingError:
            rig.restart()
        except Error:
            watch.faults += 1
        watch.poll("between two passes")
        at_rest = rested(rig, worked)
        if killer.struck and (at_rest or _waits_for_a_person(rig, worked)):
            break
        _let_time_pass(rig, worked)
    wrong = wrongs(rig, watch)
    rig.close_journal()
    return Ended(mishap, moment, wrong, killer.struck, at_rest)


class _Copies:
    """Keeps the journal as it was at a call before that moment, the same one in every run."""

    def __init__(self, rig: Rig, moment: Moment) -> None:
        draw = random.Random(str(moment))  # noqa: S311 - repeatable, not secret
        self.kept = rig.copy_of_journal()
        self._rig, self._left = rig, draw.randrange(moment.call)
        self._forget = rig.world.on_call(self.look)

    def look(self, _name: str, phase: Phase, _args: Mapping[str, object]) -> None:
        if phase != "before":
            return
        if self._left == 0:
            self.kept = self._rig.copy_of_journal()
            self._forget()
        self._left -= 1


def _waits_for_a_person(rig: Rig, worked: Worked | None) -> bool:
    if worked is None or worked.outcome is None:
        return False
    rest = worked.outcome.rest
    return isinstance(rest, Refuse) and rest.until is None and not rig.journal.requests()


def _let_time_pass(rig: Rig, worked: Worked | None) -> None:
    now = rig.world.clock.now()
    again = rig.again_at(worked) if worked is not None else None
    rig.world.clock.advance_to(max(again or now + DAY / 24, now + timedelta(seconds=20)))


def _frozen(cycle: Cycle, moment: Moment) -> Ended:
    first, watch = start(cycle)
    second = freeze_at(first, watch, moment)
    trouble = drive(second, watch)
    wrong = wrongs(second, watch)
    if trouble is not None:
        wrong.append(trouble)
    return Ended(Mishap.FROZEN, moment, wrong, 1, trouble is None)


def freeze_at(first: Rig, watch: Watch, moment: Moment) -> Rig:
    """`first` stands still right before that call while another process works for half an hour, then goes on."""
    second: list[Rig] = []
    count = 0

    def freeze(_name: str, phase: Phase, _args: Mapping[str, object]) -> None:
        nonlocal count
        if phase == "before" and not second:
            count += 1
            if count == moment.call:
                second.append(first.take_over())
                for _ in range(6):
                    _work(second[0])
                    first.world.clock.advance(_MINUTES)

    first.world.on_call(freeze)
    drive(first, watch, done=lambda _rig, _worked: bool(second))
    assert second
    return second[0]


def _work(rig: Rig) -> None:
    try:
        rig.work(USER)
    except LeaseLostError:
        return
