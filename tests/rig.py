"""rekeyd's rules on the in-memory world, with the real journal: what the daemon does, without its clock and threads.

rig = Rig(policy(max_age=days(90)))
rig.world.user(ACCOUNT, "ci", age=days(100))
rig.settle()            # passes and virtual time until nothing more happens by itself
rig.crash_at(...)       # a process that dies, and the next one
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from rekeyd.adapters import journal_schema as tables
from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.core.model import AccountId, Asked, Interval, Observed, Place, Principal
from rekeyd.core.policy import Orphans, Policy
from rekeyd.core.state import State
from rekeyd.errors import Error
from rekeyd.fleet.account import AccountWork, Worked
from rekeyd.fleet.alarms import AlarmKeeper
from rekeyd.fleet.gates import Gates
from rekeyd.fleet.mark import MarkKeeper
from rekeyd.fleet.owners import OwnerDesk
from rekeyd.fleet.passes import Fleet
from rekeyd.fleet.settings import FleetSettings
from rekeyd.fleet.tenure import Tenures
from rekeyd.ports import AccountJournal, Journal, PrincipalStatus
from rekeyd.reconcile.execute import Executor
from rekeyd.reconcile.observe import Observer
from rekeyd.reconcile.principal import Reconciler
from rekeyd.reconcile.rules import Circumstances, Rules, never_collides
from tests.journal_points import pointed_journal
from tests.world import REGION, Crash, World

ACCOUNT = AccountId("111122223333")
DAY = timedelta(days=1)
SETTLE = timedelta(seconds=15)
# Virtual sleeps move the one clock by months; the real heartbeat is not what these tests are about.
LEASE_TTL = timedelta(days=100_000)


def policy(**changes: object) -> Policy:
    """The defaults, with automatic adoption and without windows."""
    plain = Policy(name="default", orphans=Orphans())
    return replace(plain, **changes)  # type: ignore[arg-type]


class Rig:
    def __init__(
        self,
        *policies: Policy,
        seed: int = 0,
        world: World | None = None,
        settings: FleetSettings | None = None,
        windows: Callable[[Policy, datetime], tuple[Interval, ...] | None] = lambda _policy, _now: None,
        journal_url: str = "sqlite://",
        journal_points: bool = False,
    ) -> None:
        """`journal_points`: the journal's calls are call points of the world too (`journal.published`, …)."""
        self.world = world if world is not None else World(seed=seed)
        self.policies = list(policies or (policy(),))
        self.settings = settings if settings is not None else FleetSettings(max_parallel=1, max_rotations_per_hour=1000)
        self.windows = windows
        self._journal_url = journal_url
        self._journal_points = journal_points
        self.world.follow(self._policy_of)
        self.observing = False
        self.last: Worked | None = None
        self.collides: Callable[[Principal, Place], bool] = never_collides
        self.open_journal()

    # --- the process -------------------------------------------------------------------------------------------------

    def open_journal(self) -> None:
        """The process starts on whatever is at the journal's place."""
        self.store = open_journal(self._journal_url, instance="test", clock=self.world.own_clock, lease_ttl=LEASE_TTL)
        self.journal: SqlJournal = self.store.another_holder()
        self.boot()

    def boot(self) -> None:
        """What a process builds when it starts; again after `policies` or `settings` were changed."""
        world = self.world
        self.port: Journal = pointed_journal(self.journal, world.points) if self._journal_points else self.journal
        self.tenures = Tenures()
        self.mark = MarkKeeper(vault=world.vault, journal=self.port, clock=world.own_clock)
        self.gates = Gates(journal=self.port, clock=world.own_clock, settings=self.settings)
        rules = self._rules()
        executor = Executor(
            cloud=world.cloud,
            vault=world.vault,
            clock=world.own_clock,
            rules=rules,
            confirm_mark=self.mark.confirm,
            raise_mark=self.mark.raise_,
            before_open=self.gates.before_open,
        )
        self.reconciler = Reconciler(
            observer=Observer(vault=world.vault, clock=world.own_clock, rules=rules), executor=executor
        )

    def fleet(self, alarms: AlarmKeeper, owners: OwnerDesk | None = None) -> Fleet:
        """The passes of this process; made anew after `restart`."""
        return Fleet(
            cloud=self.world.cloud,
            journal=self.port,
            clock=self.world.own_clock,
            settings=self.settings,
            rules=self._rules(),
            reconciler=self.reconciler,
            gates=self.gates,
            mark=self.mark,
            alarms=alarms,
            owners=owners,
        )

    def _rules(self) -> Rules:
        return Rules(
            policies=self.policies,
            place_of=self.world.place_of,
            windows_of=self.windows,
            settle=SETTLE,
            region=REGION,
        )

    def restart(self) -> None:
        """The process is gone (kill -9); another one starts on the same journal."""
        self.journal.die()
        self.journal.close()
        self.world.clock.resume()
        self.journal = self.store.another_holder()
        self.boot()

    def another(self) -> "Rig":
        """A second process on the same journal; this one lives on (a replica, or `rotate-now`)."""
        other = copy(self)
        other.journal = self.store.another_holder()
        other.last = None
        other.boot()
        return other

    def take_over(self, account_id: AccountId = ACCOUNT) -> "Rig":
        """This process freezes, and its lease is declared dead; the other one that then works. It may wake up later."""
        with self.store._store.write() as conn:
            conn.execute(sa.update(tables.account).where(tables.account.c.account_id == account_id).values(holder=None))
        return self.another()

    def close_journal(self) -> None:
        """The process ends; after `open_journal` another one runs."""
        self.journal.die()
        self.journal.close()
        self.store.close()

    def lose_journal(self) -> None:
        """The file is deleted; the next process makes a new one."""
        assert self._journal_url == "sqlite://", "a test with a file removes it itself"
        self.close_journal()
        self.world.clock.resume()
        self.open_journal()

    def copy_of_journal(self) -> sqlite3.Connection:
        """As it is now, for `restore`."""
        kept = sqlite3.connect(":memory:", check_same_thread=False)
        self._raw_journal().backup(kept)
        return kept

    def restore(self, kept: sqlite3.Connection) -> None:
        """The process is gone, and the next one finds that copy."""
        self.lose_journal()
        kept.backup(self._raw_journal())
        self.restart()

    def _raw_journal(self) -> sqlite3.Connection:
        connection = self.store._store._engine.raw_connection().driver_connection
        assert isinstance(connection, sqlite3.Connection)
        return connection

    @contextmanager
    def held(self, account_id: AccountId = ACCOUNT) -> Iterator[AccountWork]:
        """The account's lease. A process that is killed does not give it back."""
        lease = self.port.acquire(account_id, actor="daemon")
        assert lease is not None, f"{self.journal.holder_of(account_id)} holds {account_id}"
        try:
            yield self._work(account_id, lease)
        except Crash:
            raise
        except BaseException:
            self.port.release(lease.lease)
            raise
        self.port.release(lease.lease)

    # --- passes ------------------------------------------------------------------------------------------------------

    def look(self, user_name: str, *, account_id: AccountId = ACCOUNT, asked: Asked | None = None) -> Worked:
        """One reconcile of one user, until it rests."""
        with self.held(account_id) as work:
            self.last = work.reconcile(self.world.state(account_id, user_name).principal, asked=asked)
        return self.last

    def serve(self, user_name: str, asked: Asked, *, account_id: AccountId = ACCOUNT) -> int:
        """As `rotate-now` does it: a request, served at once; returns its id."""
        request_id = self.journal.ask(account_id, user_name, asked)
        self.serve_open(account_id)
        return request_id

    def serve_open(self, account_id: AccountId = ACCOUNT) -> None:
        with self.held(account_id) as work:
            for request in self.port.requests(account_id):
                self.last = work.serve(request)

    def work(self, *user_names: str, account_id: AccountId = ACCOUNT) -> list[Worked]:
        """A due pass: these users, and whatever was asked."""
        principals = [self.world.state(account_id, name).principal for name in user_names]
        with self.held(account_id) as work:
            worked = work.work(principals, requests=lambda: self.port.requests(account_id))
            for request in self.port.requests(account_id):
                if (served := work.serve(request)) is not None:
                    worked.append(served)
        self.last = worked[-1] if worked else self.last
        return worked

    def settle(
        self,
        user_name: str = "ci",
        *,
        account_id: AccountId = ACCOUNT,
        until: Callable[[Worked], bool] = lambda _worked: False,
        span: timedelta = 400 * DAY,
        crashes: bool = False,
    ) -> Worked:
        """Look, wait as long as the answer says, look again: until it only waits for the next rotation or a person."""
        ends_at = self.world.clock.now() + span
        for _ in range(200):
            try:
                self.serve_open(account_id)
                worked = self.look(user_name, account_id=account_id)
            except Crash:
                if not crashes:
                    raise
                self.restart()
                continue
            again = self.again_at(worked)
            if until(worked) or again is None or again > ends_at or self._at_rest(worked):
                return worked
            self.world.clock.advance_to(max(again, self.world.clock.now() + timedelta(seconds=1)))
        raise AssertionError(f"{user_name} did not settle: {self.last}")

    def status(self, user_name: str) -> PrincipalStatus:
        return max((s for s in self.journal.statuses() if s.user_name == user_name), key=lambda s: s.looked_at)

    def seen(self) -> Observed:
        assert self.last is not None
        assert self.last.outcome is not None, self.last.error
        return self.last.outcome.seen

    def _work(self, account_id: AccountId, lease: AccountJournal) -> AccountWork:
        return AccountWork(
            account_id=account_id,
            iam=self.world.cloud.iam(account_id),
            lease=lease,
            journal=self.port,
            reconciler=self.reconciler,
            gates=self.gates,
            clock=self.world.own_clock,
            settings=self.settings,
            around=Circumstances(
                collides=self.collides,
                mark_problem=self.mark.problem(),
                observing=self.observing,
                holder=lease.lease.holder,
                lease_since=self.tenures.since(lease.lease, self.world.own_clock.now()),
            ),
        )

    def again_at(self, worked: Worked) -> datetime | None:
        """In the world's time."""
        again = worked.retry_at
        if again is None and worked.outcome is not None:
            again = getattr(worked.outcome.rest, "until", None)
        return None if again is None else again - self.world.own_clock.offset

    def _at_rest(self, worked: Worked) -> bool:
        return worked.outcome is not None and worked.outcome.state in (State.FRESH, State.UNMANAGED, State.REFUSED)

    def _policy_of(self, principal: Principal) -> Policy | None:
        from rekeyd.core.policy import select

        return select(self.policies, principal).policy


def asked(**changes: object) -> Asked:
    plain = Asked(by="user:test", at=datetime.fromisoformat("2026-01-01T00:00:00Z"))
    return replace(plain, **changes)  # type: ignore[arg-type]


def failure_of(worked: Worked) -> Error:
    assert worked.error is not None, worked
    return worked.error
