"""Passes: bring one account up to date, and serve what people asked.

A scan pass lists the account and selects whom to look at; a due pass goes on with the
users whose wait is over, without listing anything. Both hold the account's lease.
"""

import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rekeyd.core.events import Event
from rekeyd.core.model import AccountId, Principal
from rekeyd.core.reasons import Reason
from rekeyd.errors import BusyError, Error, LeaseLostError, StateError, StoppingError
from rekeyd.fleet.account import AccountWork, Worked
from rekeyd.fleet.alarms import AlarmKeeper
from rekeyd.fleet.gates import Gates
from rekeyd.fleet.mark import MarkKeeper
from rekeyd.fleet.owners import OwnerDesk
from rekeyd.fleet.places import Places
from rekeyd.fleet.scan import Scan, ToLookAt, fingerprint, users_to_look_at
from rekeyd.fleet.settings import FleetSettings
from rekeyd.fleet.tenure import Tenures
from rekeyd.fleet.watch import Watch
from rekeyd.logs import bound, get_logger
from rekeyd.ports import (
    AccountJournal,
    Accounts,
    AccountStatus,
    Clock,
    Cloud,
    Iam,
    Journal,
    PrincipalStatus,
    Request,
)
from rekeyd.reconcile.move import Moved, Mover
from rekeyd.reconcile.principal import Reconciler
from rekeyd.reconcile.rules import Circumstances, Rules

log = get_logger()

# A credential report usually takes seconds; a scan does not wait longer for it, since it only selects.
REPORT_WAIT = timedelta(seconds=20)
_OVERDUE_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    account_id: AccountId
    ok: bool
    """False: the account could not be worked on at all, or a principal failed."""
    looked: int = 0
    failed: int = 0
    next_at: datetime | None = None
    """The earliest time at which a principal could go on by itself; None: at the next scan."""


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Shared by the daemon and `rotate-now`. Thread-safe: one pass an account at a time, by the lease."""

    cloud: Cloud
    journal: Journal
    clock: Clock
    settings: FleetSettings
    rules: Rules
    reconciler: Reconciler
    gates: Gates
    mark: MarkKeeper
    alarms: AlarmKeeper
    owners: OwnerDesk | None = None
    """Who tells the owners of users; None: nobody."""
    actor: str = "daemon"
    stop: threading.Event = field(default_factory=threading.Event)
    passed_well: Callable[[], None] = lambda: None
    """Called after each pass over an account in which nobody failed."""
    _rows: dict[AccountId, dict[str, tuple[object, ...]]] = field(default_factory=dict)
    places: Places = field(init=False)
    """Learnt by scans; who acts without one (a command) teaches it."""
    watch: Watch = field(init=False)
    """Root users, posture, and whatever else is an alarm."""
    _tenures: Tenures = field(default_factory=Tenures)
    _served_again_at: dict[int, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places = Places(
            self.rules,
            list_users=lambda account_id: self.cloud.iam(account_id).list_users(),
            watched=lambda: self.cloud.accounts().watched,
        )
        self.watch = Watch(
            cloud=self.cloud,
            journal=self.journal,
            clock=self.clock,
            settings=self.settings,
            policies=tuple(self.rules.policies),
            mark=self.mark,
            alarms=self.alarms,
            owners=self.owners,
            actor=self.actor,
        )

    # --- which accounts ----------------------------------------------------------------------------------------------

    def accounts(self) -> Accounts:
        """Fresh. Unwatched ones are reported as such, never as clear; so is one that vanished from the list."""
        accounts = self.cloud.accounts()
        listed = {*accounts.watched, *accounts.unwatched}
        vanished = {
            status.account_id: "it is no longer listed"
            for status in self.journal.account_statuses()
            if status.account_id not in listed
        }
        accounts = replace(accounts, unwatched={**accounts.unwatched, **vanished})
        for account_id, why in accounts.unwatched.items():
            self._save_account(account_id, "root_unwatched", why, well=False)
            self.watch.unwatched(account_id, why)
        return accounts

    # --- passes ------------------------------------------------------------------------------------------------------

    def scan_pass(self, account_id: AccountId) -> PassResult:
        """List the account and look at whoever needs it. BusyError: held elsewhere. StoppingError: asked to stop."""
        with self._held(account_id) as lease, bound(pass_id=secrets.token_hex(4), account_id=account_id):
            try:
                return self._scan_pass(account_id, lease)
            except (LeaseLostError, StoppingError):
                raise
            except Error as error:
                log.error(Event.PASS_FAILED, error=error.message, hint=error.hint)
                self._save_account(account_id, "unreachable", error.message, well=False)
                self.watch.pass_failed(account_id)
                return PassResult(account_id=account_id, ok=False)

    def due_pass(self, account_id: AccountId, *, also: Collection[str] = ()) -> PassResult:
        """Go on with the users whose wait is over, and with requests. Raises like `scan_pass`.

        `also`: names of users to look at whatever they wait for; only those that the journal knows.
        """
        with self._held(account_id) as lease, bound(pass_id=secrets.token_hex(4), account_id=account_id):
            try:
                return self._due_pass(account_id, lease, frozenset(also))
            except (LeaseLostError, StoppingError):
                raise
            except Error as error:
                log.error(Event.PASS_FAILED, error=error.message, hint=error.hint)
                return PassResult(account_id=account_id, ok=False, next_at=self._next_at(account_id))

    def serve(self, request: Request) -> PassResult:
        """One request, by whoever holds the account. BusyError when somebody else does."""
        with self._held(request.account_id) as lease, bound(account_id=request.account_id):
            self._check_identity(request.account_id)
            work = self._work(request.account_id, lease)
            served = work.serve(request)
            self.watch.tell_pass(request.account_id)
            worked = [served] if served is not None else []
            return self._result(request.account_id, worked)

    def go_on(self, account_id: AccountId, user_name: str) -> PassResult:
        """Go on with one user. BusyError: held elsewhere. NotFoundError: there is no such user."""
        with self._held(account_id) as lease, bound(account_id=account_id):
            self._check_identity(account_id)
            work = self._work(account_id, lease)
            worked = work.reconcile(self.cloud.iam(account_id).get_user(user_name))
            self.watch.tell_pass(account_id)
            return self._result(account_id, [worked])

    def move(self, principal: Principal) -> Moved:
        """Bring its pair to the place that the configuration names now. BusyError: held elsewhere."""
        account_id = principal.account_id
        with self._held(account_id) as lease, bound(account_id=account_id, principal=principal.user_name):
            self._check_identity(account_id)
            if (problem := self.mark.problem()) is not None:
                raise StateError(problem.sentence)
            self.places.learn_published(self.journal.publications())
            mover = Mover(
                cloud=self.cloud,
                vault=self.mark.vault,
                clock=self.clock,
                rules=self.rules,
                collides=self.places.collides,
                unlisted=self.places.unlisted,
            )
            moved = mover.move(lease, self.cloud.iam(account_id).get_user(principal.user_name))
            self.watch.tell_pass(account_id)
            return moved

    def has_due(self, account_id: AccountId) -> bool:
        """Whether a due pass would find anything to do now."""
        now = self.clock.now()
        if any(now >= self._served_again_at.get(r.id, now) for r in self.journal.requests(account_id)):
            return True
        return any(s.next_at is not None and s.next_at <= now for s in self.journal.statuses(account_id))

    def _scan_pass(self, account_id: AccountId, lease: AccountJournal) -> PassResult:
        now = self.clock.now()
        log.debug(Event.PASS_STARTED)
        self._check_identity(account_id)
        iam = self.cloud.iam(account_id)
        seen = self.watch.look(iam)
        scan = Scan(account_id=account_id, users=iam.list_users(), report=seen.report, scanned_at=now)
        self.watch.listed(account_id, scan.users)
        chosen, drift = self._choose(scan, now)
        self.places.learn(account_id, scan.users)
        log.debug(Event.SCAN_FINISHED, users=len(scan.users), managed=chosen.managed, due=chosen.due)
        work = self._work(account_id, lease)
        worked = work.work(chosen.look, requests=lambda: self.journal.requests(account_id))
        self.watch.answer_exposures(iam, seen)
        # Requests of users that the scan did not choose.
        for request in self.journal.requests(account_id):
            if (served := work.serve(request)) is not None:
                worked.append(served)
        self._forget_vanished(account_id, scan)
        self.watch.end_exposures(iam)
        result = self._result(account_id, worked)
        state, message = self._account_state(account_id, result)
        self._save_account(
            account_id,
            state,
            message,
            well=result.failed == 0,
            drifted=drift,
            principals=chosen.managed,
            due=chosen.due,
        )
        self.watch.tell_pass(account_id, seen)
        seconds = (self.clock.now() - now).total_seconds()
        log.info(Event.PASS_FINISHED, looked=result.looked, failed=result.failed, due=chosen.due, seconds=seconds)
        if result.ok:
            self.passed_well()
        return result

    def _due_pass(self, account_id: AccountId, lease: AccountJournal, also: frozenset[str]) -> PassResult:
        now = self.clock.now()
        iam = self.cloud.iam(account_id)
        work = self._work(account_id, lease)
        due = [
            _principal_of(status, iam)
            for status in self.journal.statuses(account_id)
            if status.user_name in also or (status.next_at is not None and status.next_at <= now)
        ]
        worked = work.work(due, requests=lambda: self.journal.requests(account_id))
        for request in self.journal.requests(account_id):
            if (served := work.serve(request)) is not None:
                worked.append(served)
        if worked:
            self.watch.tell_pass(account_id)
        return self._result(account_id, worked)

    def _work(self, account_id: AccountId, lease: AccountJournal) -> AccountWork:
        identity = self.cloud.sts.caller_identity(account_id)
        self.places.learn_published(self.journal.publications())
        return AccountWork(
            account_id=account_id,
            iam=self.cloud.iam(account_id),
            lease=lease,
            journal=self.journal,
            reconciler=self.reconciler,
            gates=self.gates,
            clock=self.clock,
            settings=self.settings,
            around=Circumstances(
                own_arns=frozenset({identity.arn}),
                collides=self.places.collides,
                unlisted=self.places.unlisted,
                mark_problem=self.mark.problem(),
                observing=self.settings.observing,
                holder=lease.lease.holder,
                lease_since=self._tenures.since(lease.lease, self.clock.now()),
            ),
            actor=self.actor,
            stop=self.stop,
            served_again_at=self._served_again_at,
        )

    def _choose(self, scan: Scan, now: datetime) -> tuple[ToLookAt, bool]:
        before = next((a for a in self.journal.account_statuses() if a.account_id == scan.account_id), None)
        last_drift = None if before is None else before.last_drift_at
        drift = last_drift is None or now >= last_drift + self.settings.drift_every
        chosen = users_to_look_at(
            scan,
            self.rules.policies,
            statuses={s.user_id: s for s in self.journal.statuses(scan.account_id)},
            open_users=self.journal.open_users(scan.account_id),
            asked={r.user_name.casefold() for r in self.journal.requests(scan.account_id)},
            rows_before=self._rows.get(scan.account_id, {}),
            drift=drift,
            now=now,
        )
        if scan.report is not None:
            self._rows[scan.account_id] = {arn: fingerprint(row) for arn, row in scan.report.users.items()}
        return chosen, drift

    def _forget_vanished(self, account_id: AccountId, scan: Scan) -> None:
        present = {user.user_id for user in scan.users}
        vanished = [s.user_id for s in self.journal.statuses(account_id) if s.user_id not in present]
        if vanished:
            self.journal.drop_status(account_id, vanished)

    # --- small things ------------------------------------------------------------------------------------------------

    @contextmanager
    def _held(self, account_id: AccountId) -> Iterator[AccountJournal]:
        lease = self.journal.acquire(account_id, actor=self.actor)
        if lease is None:
            holder = self.journal.holder_of(account_id)
            raise BusyError(f"{holder or 'another holder'} works on account {account_id}")
        log.debug(Event.LEASE_TAKEN, account_id=account_id)
        try:
            yield lease
        finally:
            self.journal.release(lease.lease)

    def _check_identity(self, account_id: AccountId) -> None:
        identity = self.cloud.sts.caller_identity(account_id)
        if identity.is_root:
            raise StateError(f"rekeyd acts as the root user of account {account_id}; it refuses to")
        if identity.account_id != account_id:
            raise StateError(
                f"the credentials for account {account_id} belong to account {identity.account_id}",
                hint="check role_arn in [[aws.accounts]]",
            )

    def _account_state(self, account_id: AccountId, result: PassResult) -> tuple[str, str]:
        if any(brake.account_id in (account_id, None) for brake in self.journal.brakes()):
            return "braked", Reason.BRAKED.sentence
        if result.failed:
            return "failing", f"{result.failed} of {result.looked} users failed"
        return "ok", ""

    def _save_account(
        self,
        account_id: AccountId,
        state: str,
        message: str,
        *,
        well: bool,
        drifted: bool = False,
        principals: int | None = None,
        due: int = 0,
    ) -> None:
        now = self.clock.now()
        before = next((a for a in self.journal.account_statuses() if a.account_id == account_id), None)
        self.journal.save_account(
            AccountStatus(
                account_id=account_id,
                alias=self.watch.alias_of(account_id),
                state=state,
                message=message,
                last_pass_at=now if well else (None if before is None else before.last_pass_at),
                last_drift_at=now if drifted else (None if before is None else before.last_drift_at),
                principals=principals if principals is not None else (0 if before is None else before.principals),
                due=due,
            )
        )

    def _result(self, account_id: AccountId, worked: Iterable[Worked]) -> PassResult:
        worked = list(worked)
        failed = sum(1 for w in worked if w.error is not None)
        return PassResult(
            account_id=account_id,
            ok=failed == 0,
            looked=sum(1 for w in worked if not w.skipped),
            failed=failed,
            next_at=self._next_at(account_id),
        )

    def _next_at(self, account_id: AccountId) -> datetime | None:
        return min((s.next_at for s in self.journal.statuses(account_id) if s.next_at is not None), default=None)


def _principal_of(status: PrincipalStatus, iam: Iam) -> Principal:
    """Enough to find the user again; the look itself reads it freshly."""
    return Principal(
        account_id=iam.account_id,
        user_name=status.user_name,
        user_id=status.user_id,
        path="/",
        arn="",
    )
