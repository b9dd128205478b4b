"""Whole lives of a key, each from a prepared world to its rest, and what must hold at every moment of them.

A cycle may be broken off at any call and driven on by another process: `drive` asks nobody for help, it only lets
time pass as far as the last answer says, exactly as the daemon does.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rekeyd.core.model import KeyStatus
from rekeyd.core.policy import Adopt, Attribution, Match, Orphans, Policy, Repair
from rekeyd.core.state import State
from rekeyd.errors import Error, LeaseLostError, StoppingError
from rekeyd.fleet.account import Worked
from rekeyd.fleet.settings import FleetSettings
from tests.rig import ACCOUNT, DAY, Rig, asked, policy
from tests.world import Crash, Lags, World, lost
from tests.world.points import Phase

USER = "ci"
NEIGHBOUR = "somebody-else"
# A process that has nothing to wait for looks again at the drift look's pace.
DRIFT = timedelta(hours=1)
SPAN = 60 * DAY
_MOST_PASSES = 600
_PATIENCE = 100
_SETTINGS = FleetSettings(max_parallel=1, max_rotations_per_hour=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    name: str
    policy: Policy
    prepare: Callable[[Rig], None]
    """The world before the first recorded call."""
    begin: Callable[[Rig], None] = lambda _rig: None
    """What a person asks for, or what goes wrong, right before it."""
    broken: bool = False
    """Consumers cannot work when it begins; they must as soon as it has mended that."""
    keys_left: int = 1


@dataclass(slots=True, kw_only=True)
class Watch:
    """Follows one run: a consumer that works at every call, and every CreateAccessKey."""

    rig: Rig
    served: bool = False
    polls: int = 0
    failures: list[str] = field(default_factory=list)
    creates: Counter[str] = field(default_factory=Counter)
    faults: int = 0

    def __post_init__(self) -> None:
        self.rig.world.on_call(self.follow)

    def follow(self, name: str, phase: Phase, args: Mapping[str, object]) -> None:
        if name == "iam.create_access_key" and phase == "before":
            self.creates[str(args["operation_id"])] += 1
        self.poll(f"{phase} {name}")

    def poll(self, moment: str) -> None:
        """A program that reads Vault and uses what it finds, at this moment."""
        works = self.rig.world.consumer(ACCOUNT, USER)
        self.polls += 1
        if works:
            self.served = True
        elif self.served:
            self.failures.append(moment)


def start(cycle: Cycle, *, seed: int = 0, lags: Lags | None = None) -> tuple[Rig, Watch]:
    """The rig as it stands right before the first recorded call of the cycle."""
    world = World(seed=seed, lags=lags)
    rig = Rig(cycle.policy, world=world, settings=_SETTINGS, journal_points=True)
    world.account(ACCOUNT)
    neighbour = world.user(ACCOUNT, NEIGHBOUR, age=400 * DAY, path="/unmanaged/")
    world.operators.add_key(ACCOUNT, neighbour.user_name, age=300 * DAY, status=KeyStatus.INACTIVE)
    cycle.prepare(rig)
    world.clock.advance(timedelta(minutes=5))
    cycle.begin(rig)
    if cycle.broken:
        world.clock.advance(timedelta(seconds=10))  # until AWS refuses the dead key everywhere
    watch = Watch(rig=rig)
    watch.poll("at the start")
    world.calls.clear()
    return rig, watch


def drive(rig: Rig, watch: Watch, *, done: Callable[[Rig, Worked | None], bool] | None = None) -> str | None:
    """Passes, and time as they ask for it, until the life has come to rest. What is wrong, if it does not."""
    at_rest = done if done is not None else rested
    ends_at = rig.world.clock.now() + SPAN
    for number in range(_MOST_PASSES):
        worked: Worked | None = None
        again: datetime | None = None
        try:
            worked = one_pass(rig)
        except Crash:
            watch.poll("after a crash")
            rig.restart()
        except LeaseLostError:
            watch.faults += 1
        except StoppingError:
            watch.faults += 1
            rig.restart()
        except Error:
            watch.faults += 1  # the journal could not be written: the next pass tries again
        watch.poll("between two passes")
        if worked is not None:
            if at_rest(rig, worked):
                return None
            again = rig.again_at(worked)
        now = rig.world.clock.now()
        if now > ends_at:
            break
        if again is None:
            again = now + (timedelta(seconds=30) if rig.journal.requests(ACCOUNT) else DRIFT)
        # A fault of a day would else be asked about every few seconds.
        least = timedelta(minutes=20) if number > _PATIENCE else timedelta(seconds=1)
        rig.world.clock.advance_to(max(again, now + least))
    return f"did not come to rest: {_words(rig.last)}; keys {_keys(rig)}"


def one_pass(rig: Rig) -> Worked | None:
    """A due pass; what it came to for the user."""
    worked = rig.work(USER)
    mine = [w for w in worked if w.principal.user_name == USER]
    return mine[-1] if mine else None


def rested(rig: Rig, worked: Worked | None) -> bool:
    """One key, Active, held, nothing open, nothing asked."""
    if worked is None or worked.outcome is None or worked.outcome.state != State.FRESH:
        return False
    facts = rig.journal.known(worked.principal).facts
    keys = rig.world.keys(ACCOUNT, USER)
    return (
        facts.rotation is None
        and not rig.journal.requests(ACCOUNT)
        and len(keys) == 1
        and keys[0].status is KeyStatus.ACTIVE
        and rig.world.held_id(ACCOUNT, USER) == keys[0].id
    )


def wrongs(rig: Rig, watch: Watch) -> list[str]:
    """Every broken promise of a run that has come to rest."""
    found = list(rig.world.violations)
    try:
        rig.world.check_promises()
    except AssertionError as error:
        found = str(error).splitlines()
    if watch.failures:
        found.append(f"P1: a consumer failed {len(watch.failures)} times, first {watch.failures[0]}")
    found += [f"once: operation {operation} was sent {n} times" for operation, n in watch.creates.items() if n > 1]
    verdict = rig.journal.verify()
    if verdict.broken_at is not None:
        found.append(f"the journal's chain is broken at {verdict.broken_at}")
    neighbour = [(key.status, key.created_at) for key in rig.world.keys(ACCOUNT, NEIGHBOUR)]
    if [status for status, _ in neighbour] != [KeyStatus.ACTIVE, KeyStatus.INACTIVE]:
        found.append(f"P5: a key of a user in no policy was touched: {neighbour}")
    return found


def _words(worked: Worked | None) -> str:
    if worked is None:
        return "nothing was done"
    if worked.error is not None:
        return f"failed: {worked.error.message}"
    if worked.outcome is None:
        return "skipped" if worked.skipped else "gone"
    return f"{worked.outcome.state}, {type(worked.outcome.rest).__name__} {worked.outcome.rest.reason}"


def _keys(rig: Rig) -> str:
    return ", ".join(f"{key.id} {key.status}" for key in rig.world.keys(ACCOUNT, USER))


# --- the lives -------------------------------------------------------------------------------------------------------


def cycle_policy(**changes: object) -> Policy:
    """The defaults for everybody but the neighbour."""
    return replace(policy(exclude=Match(paths=("/unmanaged/",))), **changes)  # type: ignore[arg-type]


def _due(rig: Rig) -> None:
    rig.world.user(ACCOUNT, USER, age=100 * DAY)


def _unmanaged(rig: Rig) -> None:
    rig.world.user(ACCOUNT, USER, age=100 * DAY, held=False)


def _without_key(rig: Rig) -> None:
    rig.world.user(ACCOUNT, USER, age=None)


def _in_overlap(rig: Rig) -> None:
    _due(rig)
    rig.work(USER)
    rig.world.clock.advance(timedelta(hours=1))
    rig.work(USER)


def _in_quarantine(rig: Rig) -> None:
    _due(rig)
    rig.settle(until=lambda w: w.outcome is not None and w.outcome.state == State.QUARANTINE)


def _rotated(rig: Rig) -> None:
    _due(rig)
    rig.settle(until=lambda w: rested(rig, w))


def _emergency(rig: Rig) -> None:
    for key in rig.world.keys(ACCOUNT, USER):
        if key.id != rig.world.held_id(ACCOUNT, USER):
            rig.world.waive_quarantine(key.id)
    rig.journal.ask(ACCOUNT, USER, asked(emergency=True, at=rig.world.clock.now()))


def _rollback(rig: Rig) -> None:
    rig.journal.ask(ACCOUNT, USER, asked(rollback=True, at=rig.world.clock.now()))


def _held_key_deleted(rig: Rig) -> None:
    held = rig.world.held_id(ACCOUNT, USER)
    assert held is not None
    rig.world.operators.delete_key(held)


def _replace_stray(rig: Rig) -> None:
    stray = rig.world.operators.create_key(ACCOUNT, USER).access_key_id
    rig.world.clock.advance(timedelta(minutes=5))
    rig.world.allow(stray)
    rig.journal.ask(ACCOUNT, USER, asked(replace=stray, at=rig.world.clock.now()))


def _create_answer_lost(rig: Rig) -> None:
    rig.world.fault("iam.create_access_key", when="after", error=lost("create"))


def _create_never_arrives(rig: Rig) -> None:
    rig.world.fault("iam.create_access_key", when="before", error=lost("create"))


def _publish_answer_lost(rig: Rig) -> None:
    rig.world.fault("vault.publish", when="after", error=lost("publish"))


def _publish_never_arrives(rig: Rig) -> None:
    rig.world.fault("vault.publish", when="before", error=lost("publish"))


def _delete_answer_lost(rig: Rig) -> None:
    rig.world.fault("iam.update_access_key", when="after", error=lost("update"))
    rig.world.fault("iam.delete_access_key", when="after", error=lost("delete"))


def _not_honoured_in_time(rig: Rig) -> None:
    lags = rig.world.lags
    usual = lags.new_key
    lags.new_key = (timedelta(minutes=4), timedelta(minutes=5))

    def mend() -> None:
        lags.new_key = usual

    rig.world.clock.after(timedelta(minutes=6), mend)


def _vault_written_by_another(rig: Rig) -> None:
    written = False

    def write(name: str, phase: Phase, _args: Mapping[str, object]) -> None:
        nonlocal written
        if name == "vault.publish" and phase == "before" and not written:
            written = True
            rig.world.operators.edit_field(rig.world.place(ACCOUNT, USER), "team", "payments")

    rig.world.on_call(write)


_WINDOW = Orphans(attribution=Attribution.WINDOW)

CYCLES = (
    Cycle(name="rotate", policy=cycle_policy(), prepare=_due),
    Cycle(name="adopt", policy=cycle_policy(adopt=Adopt.AT_ONCE), prepare=_unmanaged),
    Cycle(name="create", policy=cycle_policy(create=True), prepare=_without_key),
    Cycle(name="emergency", policy=cycle_policy(), prepare=_rotated, begin=_emergency),
    Cycle(name="emergency in overlap", policy=cycle_policy(), prepare=_in_overlap, begin=_emergency),
    Cycle(name="emergency in quarantine", policy=cycle_policy(), prepare=_in_quarantine, begin=_emergency),
    Cycle(name="rollback in overlap", policy=cycle_policy(), prepare=_in_overlap, begin=_rollback),
    Cycle(name="rollback in quarantine", policy=cycle_policy(), prepare=_in_quarantine, begin=_rollback),
    Cycle(
        name="repair",
        policy=cycle_policy(repair=Repair.ISSUE),
        prepare=_rotated,
        begin=_held_key_deleted,
        broken=True,
    ),
    Cycle(name="replace", policy=cycle_policy(), prepare=_rotated, begin=_replace_stray),
    Cycle(name="create answer lost, cloudtrail", policy=cycle_policy(), prepare=_due, begin=_create_answer_lost),
    Cycle(
        name="create answer lost, window",
        policy=cycle_policy(orphans=_WINDOW),
        prepare=_due,
        begin=_create_answer_lost,
    ),
    Cycle(name="create never arrives", policy=cycle_policy(), prepare=_due, begin=_create_never_arrives),
    Cycle(name="publish answer lost", policy=cycle_policy(), prepare=_due, begin=_publish_answer_lost),
    Cycle(name="publish never arrives", policy=cycle_policy(), prepare=_due, begin=_publish_never_arrives),
    Cycle(
        name="publish never arrives, absent path",
        policy=cycle_policy(adopt=Adopt.AT_ONCE),
        prepare=_unmanaged,
        begin=_publish_never_arrives,
    ),
    Cycle(name="retirement's answers lost", policy=cycle_policy(), prepare=_due, begin=_delete_answer_lost),
    Cycle(name="new key not honoured", policy=cycle_policy(), prepare=_due, begin=_not_honoured_in_time),
    Cycle(name="vault written by another", policy=cycle_policy(), prepare=_due, begin=_vault_written_by_another),
)
BY_NAME = {cycle.name: cycle for cycle in CYCLES}
