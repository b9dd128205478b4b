"""Hypothesis drives the rig: people, time, crashes and lost answers in any order; finds stay in test_sequences.py.

More of it: `make explore`.
"""

import os
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import Phase as Phases
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
            self.rig.work(USER)
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
        self.rig.lose_journal()

    @rule(kind=st.sampled_from(["rotate", "rollback", "emergency"]))
    def ask(self, kind: str) -> None:
        if kind == "emergency":
            for key in self.rig.world.keys(ACCOUNT, USER):
                if key.id != self.rig.world.held_id(ACCOUNT, USER):
                    self.rig.world.waive_quarantine(key.id)
        wish = asked(at=self.rig.world.clock.now(), emergency=kind == "emergency", rollback=kind == "rollback")
        self.rig.journal.ask(ACCOUNT, USER, wish)
        self._pass()

    @rule(what=st.sampled_from(["create", "flip", "edit", "use"]))
    def people(self, what: str) -> None:
        world, held = self.rig.world, self.rig.world.held_id(ACCOUNT, USER)
        others = [key for key in world.keys(ACCOUNT, USER) if key.id != held]
        if what == "create" and len(others) == 0:
            world.operators.create_key(ACCOUNT, USER)
        elif what == "edit" and held is not None:
            world.operators.edit_field(world.place(ACCOUNT, USER), "note", str(world.clock.now()))
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
