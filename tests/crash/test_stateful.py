"""Hypothesis drives the rig: people, time, crashes and lost answers in any order; finds stay in test_sequences.py.

More of it: `make explore`.
"""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import Phase as Phases
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rekeyd import logs
from rekeyd.core.model import KeyStatus
from rekeyd.core.policy import Adopt, Attribution, Orphans, StillUsed
from rekeyd.errors import Error, OutcomeUnknownError, TemporaryError
from tests.crash.cycles import USER
from tests.journal_points import is_read
from tests.rig import ACCOUNT, DAY, Rig, asked, policy
from tests.world import Crash, Lags, World
from tests.world.points import Phase

LONG = "REKEYD_LONG_STATEFUL"
CHANGES = ("iam.create_access_key", "iam.update_access_key", "iam.delete_access_key", "vault.publish", "vault.burn")


class OneUser(RuleBasedStateMachine):
    rig: Rig
    name = USER
    copy: sqlite3.Connection | None = None

    @initialize(
        held=st.booleans(),
        age=st.integers(1, 200),
        attribution=st.sampled_from(Attribution),
        still_used=st.sampled_from(StillUsed),
        seed=st.integers(0, 9),
    )
    def begin(self, held: bool, age: int, attribution: Attribution, still_used: StillUsed, seed: int) -> None:
        logs.configure(level="critical")
        world = World(seed=seed, lags=Lags(listing=timedelta(seconds=10), listing_flaps=True))
        chosen = policy(
            adopt=Adopt.AT_ONCE, orphans=Orphans(attribution=attribution), still_used=still_used, max_hold=2 * DAY
        )
        self.rig = Rig(chosen, world=world, journal_points=True)
        world.user(ACCOUNT, USER, age=age * DAY, held=held)

    def _pass(self) -> None:
        try:
            self.rig.work(self.name)
        except Crash:
            self.rig.restart()
        except Error:
            return

    @rule(minutes=st.sampled_from([0, 1, 20, 90]))
    def look(self, minutes: int) -> None:
        self._pass()
        self.rig.world.clock.advance(timedelta(minutes=minutes, seconds=16))

    @rule(days=st.sampled_from([1, 3, 8, 40]))
    def live(self, days: int) -> None:
        for _ in range(min(days, 4)):
            self.rig.world.clock.advance(days * DAY / min(days, 4))
            self._pass()

    @rule(nth=st.integers(1, 90), phase=st.sampled_from(["before", "after"]))
    def die(self, nth: int, phase: Phase) -> None:
        with self.rig.world.fault("*", when=phase, error=Crash("kill -9"), nth=nth):
            self._pass()

    @rule(point=st.sampled_from(CHANGES), phase=st.sampled_from(["before", "after"]))
    def lose_an_answer(self, point: str, phase: Phase) -> None:
        assert not is_read(point)
        with self.rig.world.fault(point, when=phase, error=OutcomeUnknownError("lost")):
            self._pass()

    @rule(point=st.sampled_from(CHANGES), minutes=st.integers(1, 14))
    def arrive_late(self, point: str, minutes: int) -> None:
        with self.rig.world.late(point, delay=timedelta(minutes=minutes)):
            self._pass()

    @rule(nth=st.integers(1, 40))
    def throttle(self, nth: int) -> None:
        with self.rig.world.fault("iam.*", error=TemporaryError("throttled"), nth=nth, times=5):
            self._pass()

    @rule()
    def lose_the_journal(self) -> None:
        self._undo_rename()
        self.rig.lose_journal()

    @rule()
    def keep_a_copy(self) -> None:
        self.copy = self.rig.copy_of_journal()

    @precondition(lambda self: self.copy is not None)
    @rule()
    def restore_the_copy(self) -> None:
        self._undo_rename()
        assert self.copy is not None
        self.rig.restore(self.copy)

    @rule(hours=st.sampled_from([-8 * 24, -1, 1, 8 * 24]), nth=st.integers(1, 90))
    def set_the_clock_wrong(self, hours: int, nth: int) -> None:
        """In the middle of a pass, and right again an hour later."""
        clock, left = self.rig.world.own_clock, nth

        def set_wrong(_name: str, _phase: Phase, _args: Mapping[str, object]) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                clock.offset = timedelta(hours=hours)

        forget = self.rig.world.on_call(set_wrong)
        self._pass()
        forget()
        for _ in range(4):
            self.rig.world.clock.advance(timedelta(minutes=15))
            self._pass()
        clock.offset = timedelta(0)

    @rule(hours=st.sampled_from([1, 12]))
    def vault_is_down(self, hours: int) -> None:
        self.rig.world.vault.down = True
        for _ in range(3):
            self._pass()
            self.rig.world.clock.advance(timedelta(hours=hours) / 3)
        self.rig.world.vault.down = False

    @rule(nth=st.integers(1, 90))
    def freeze(self, nth: int) -> None:
        """Past the lease, while another process works; then it goes on, and the other one stays."""
        rig, others, left = self.rig, [self.rig][:0], nth

        def stand_still(_name: str, phase: Phase, _args: Mapping[str, object]) -> None:
            nonlocal left
            left -= phase == "before"
            if left == 0 and not others:
                others.append(rig.take_over())
                self.rig = others[0]
                self._pass()
                rig.world.clock.advance(timedelta(minutes=20))
                self._pass()

        forget = rig.world.on_call(stand_still)
        with suppress(Error):
            rig.work(self.name)
        forget()

    @rule(
        quarantine=st.integers(4, 9),
        overlap=st.integers(2, 7),
        still_used=st.sampled_from(StillUsed),
    )
    def reload(self, quarantine: int, overlap: int, still_used: StillUsed) -> None:
        (before,) = self.rig.policies
        self.rig.policies[0] = replace(
            before, quarantine=quarantine * DAY, overlap=overlap * DAY, still_used=still_used
        )
        self.rig.boot()

    @rule(kind=st.sampled_from(["rotate", "rollback", "emergency"]))
    def ask(self, kind: str) -> None:
        if kind == "emergency":
            for key in self.rig.world.keys(ACCOUNT, self.name):
                if key.id != self.rig.world.held_id(ACCOUNT, self.name):
                    self.rig.world.waive_quarantine(key.id)
        wish = asked(at=self.rig.world.clock.now(), emergency=kind == "emergency", rollback=kind == "rollback")
        self.rig.journal.ask(ACCOUNT, self.name, wish)
        self._pass()

    @rule(what=st.sampled_from(["anew", "rename", "soft-delete"]))
    def people_and_the_user(self, what: str) -> None:
        world, operators, place = self.rig.world, self.rig.world.operators, self.rig.world.place(ACCOUNT, self.name)
        if what == "anew":
            operators.delete_metadata(place)
            world.manage(operators.recreate_user(ACCOUNT, self.name))
        elif what == "rename":
            renamed = self.name != USER
            self._undo_rename()
            if not renamed:
                operators.rename_user(ACCOUNT, USER, f"{USER}-x")
                self.name = f"{USER}-x"
        elif world.vault.state.served(place) is not None:
            operators.soft_delete(place)
            self._pass()
            operators.undelete(place)

    def _undo_rename(self) -> None:
        """Without a journal nobody can tell a renamed user from a new one."""
        if self.name != USER:
            self.rig.world.operators.rename_user(ACCOUNT, self.name, USER)
            self.name = USER

    @rule(what=st.sampled_from(["create", "flip", "edit", "use"]))
    def people(self, what: str) -> None:
        world, held = self.rig.world, self.rig.world.held_id(ACCOUNT, self.name)
        others = [key for key in world.keys(ACCOUNT, self.name) if key.id != held]
        if what == "create" and len(others) == 0:
            world.operators.create_key(ACCOUNT, self.name)
        elif what == "edit" and held is not None:
            world.operators.edit_field(world.place(ACCOUNT, self.name), "note", str(world.clock.now()))
        elif others and what == "flip":
            flip = world.operators.reactivate if others[0].status is KeyStatus.INACTIVE else world.operators.deactivate
            flip(others[0].id)
        elif others and what == "use":
            world.use_key(others[0].id)

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "rig"):
            self.rig.world.check_promises()
            assert self.rig.journal.verify().broken_at is None

    def teardown(self) -> None:
        """A month in which nobody interferes: rekeyd comes to rest, or waits for a person, and keeps its promises."""
        if not hasattr(self, "rig"):
            return
        self._undo_rename()
        for _ in range(20):
            self._pass()
            self.rig.world.clock.advance(1.5 * DAY)
        rest = self.rig.look(USER)
        assert rest.outcome is not None, rest.error
        assert self.rig.journal.known(rest.principal).pending == ()
        assert self.rig.world.clock.pending == 0
        self.promises_hold()


TestOneUser = OneUser.TestCase
TestOneUser.settings = settings(
    max_examples=2000 if LONG in os.environ else 7,
    phases=tuple(Phases) if LONG in os.environ else (Phases.explicit, Phases.generate),
    stateful_step_count=30 if LONG in os.environ else 12,
    derandomize=LONG not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
