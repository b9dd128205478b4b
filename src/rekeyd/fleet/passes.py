"""Passes: bring one account up to date, serve what people asked, check the root user.

A scan pass lists the account and selects whom to look at; a due pass goes on with the
users whose wait is over, without listing anything. Both hold the account's lease.
"""

import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rekeyd.core.events import Event
from rekeyd.core.findings import AccountSeen, Finding, check, refusal_finding, root_state
from rekeyd.core.model import AccountId, Place, Principal, Selection, UserId
from rekeyd.core.policy import select
from rekeyd.core.reasons import Reason
from rekeyd.errors import BusyError, Error, LeaseLostError, RefusedError, StateError, StoppingError
from rekeyd.fleet.account import AccountWork, Worked
from rekeyd.fleet.alarms import AlarmKeeper
from rekeyd.fleet.gates import Gates
from rekeyd.fleet.mark import MarkKeeper
from rekeyd.fleet.posture import PostureGatherer
from rekeyd.fleet.scan import Scan, ToLookAt, fingerprint, users_to_look_at
from rekeyd.fleet.settings import FleetSettings, Mode
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
from rekeyd.reconcile.principal import Reconciler
from rekeyd.reconcile.rules import Circumstances, PlaceOf, Rules

log = get_logger()

# A credential report usually takes seconds; a scan does not wait longer for it, since it only selects.
REPORT_WAIT = timedelta(seconds=20)


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
    posture: PostureGatherer
    actor: str = "daemon"
    stop: threading.Event = field(default_factory=threading.Event)
    _rows: dict[AccountId, dict[str, tuple[object, ...]]] = field(default_factory=dict)
    _places: "_Places" = field(init=False)
    _seen: dict[AccountId, AccountSeen] = field(default_factory=dict)
    _aliases: dict[AccountId, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = _Places(self.rules.place_of)

    # --- which accounts ----------------------------------------------------------------------------------------------

    def accounts(self) -> Accounts:
        """Fresh. Unwatched ones are reported as such, never as clear."""
        accounts = self.cloud.accounts()
        for account_id, why in accounts.unwatched.items():
            self._save_account(account_id, "root_unwatched", why, well=False)
            self._check_posture(AccountSeen(account_id=account_id, seen_at=self.clock.now(), unwatched=why))
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
                self.alarms.update(f"account:{account_id}", [_unreachable(account_id, error)], keep_others=True)
                return PassResult(account_id=account_id, ok=False)

    def due_pass(self, account_id: AccountId) -> PassResult:
        """Go on with the users whose wait is over, and with requests. Raises like `scan_pass`."""
        with self._held(account_id) as lease, bound(pass_id=secrets.token_hex(4), account_id=account_id):
            try:
                return self._due_pass(account_id, lease)
            except (LeaseLostError, StoppingError):
                raise
            except Error as error:
                log.error(Event.PASS_FAILED, error=error.message, hint=error.hint)
                return PassResult(account_id=account_id, ok=False, next_at=self._next_at(account_id))

    def serve(self, request: Request) -> PassResult:
        """One request, by whoever holds the account. BusyError when somebody else does."""
        with self._held(request.account_id) as lease, bound(account_id=request.account_id):
            work = self._work(request.account_id, lease)
            served = work.serve(request)
            self._principal_alarms(request.account_id)
            worked = [served] if served is not None else []
            return self._result(request.account_id, worked)

    def has_due(self, account_id: AccountId) -> bool:
        """Whether a due pass would find anything to do now."""
        now = self.clock.now()
        if self.journal.requests(account_id):
            return True
        return any(s.next_at is not None and s.next_at <= now for s in self.journal.statuses(account_id))

    def _scan_pass(self, account_id: AccountId, lease: AccountJournal) -> PassResult:
        now = self.clock.now()
        log.debug(Event.PASS_STARTED)
        self._check_identity(account_id)
        iam = self.cloud.iam(account_id)
        if account_id not in self._aliases:
            self._aliases[account_id] = _alias(iam)
        seen = self.posture.gather(iam, self._seen.get(account_id), max_report_wait=REPORT_WAIT)
        scan = Scan(account_id=account_id, users=iam.list_users(), report=seen.report, scanned_at=now)
        chosen, drift = self._choose(scan, now)
        self._places.learn(account_id, self.rules, scan.users)
        log.debug(Event.SCAN_FINISHED, users=len(scan.users), managed=chosen.managed, due=chosen.due)
        work = self._work(account_id, lease)
        worked = work.work(chosen.look, requests=lambda: self.journal.requests(account_id))
        # Requests of users that the scan did not choose.
        for request in self.journal.requests(account_id):
            if (served := work.serve(request)) is not None:
                worked.append(served)
        self._forget_vanished(account_id, scan)
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
        self._seen[account_id] = seen
        self._principal_alarms(account_id)
        self._check_posture(self.posture.with_managed(seen, self.journal.statuses(account_id), self.rules.policies))
        seconds = (self.clock.now() - now).total_seconds()
        log.info(Event.PASS_FINISHED, looked=result.looked, failed=result.failed, due=chosen.due, seconds=seconds)
        return result

    def _due_pass(self, account_id: AccountId, lease: AccountJournal) -> PassResult:
        now = self.clock.now()
        iam = self.cloud.iam(account_id)
        work = self._work(account_id, lease)
        due = [
            _principal_of(status, iam)
            for status in self.journal.statuses(account_id)
            if status.next_at is not None and status.next_at <= now
        ]
        worked = work.work(due, requests=lambda: self.journal.requests(account_id))
        for request in self.journal.requests(account_id):
            if (served := work.serve(request)) is not None:
                worked.append(served)
        if worked:
            self._principal_alarms(account_id)
        return self._result(account_id, worked)

    def _work(self, account_id: AccountId, lease: AccountJournal) -> AccountWork:
        identity = self.cloud.sts.caller_identity(account_id)
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
                collides=self._places.collides,
                mark_problem=self.mark.problem(),
                lease_since=self.clock.now(),
            ),
            previous={status.user_id: status for status in self.journal.statuses(account_id)},
            stop=self.stop,
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

    # --- root and posture --------------------------------------------------------------------------------------------

    def check_root(self, account_id: AccountId) -> float:
        """Look at the root user now, between two scans. Returns 1.0, 0.0, or NaN for "cannot tell"."""
        with bound(account_id=account_id):
            seen = self.posture.gather_root(self.cloud.iam(account_id), self._seen.get(account_id))
            self._seen[account_id] = seen
            self._check_posture(self.posture.with_managed(seen, self.journal.statuses(account_id), self.rules.policies))
            return root_state(seen)

    def root_states(self) -> Mapping[AccountId, float]:
        """For the metric: by account, 1.0, 0.0 or NaN."""
        return {account_id: root_state(seen) for account_id, seen in self._seen.items()}

    def _check_posture(self, seen: AccountSeen) -> None:
        self._seen[seen.account_id] = seen
        self.alarms.update(f"account:{seen.account_id}", check(seen, self.clock.now()))

    def _principal_alarms(self, account_id: AccountId) -> None:
        findings = [
            finding for status in self.journal.statuses(account_id) if (finding := refusal_finding(status)) is not None
        ]
        self.alarms.update(f"principals:{account_id}", findings)

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
                alias=self._aliases.get(account_id),
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

    @property
    def observing(self) -> bool:
        return self.settings.mode is Mode.OBSERVE


def _alias(iam: Iam) -> str | None:
    try:
        return iam.account_alias()
    except StoppingError:
        raise
    except Error:
        return None  # only a name for people


def _unreachable(account_id: AccountId, error: Error) -> Finding:
    return Finding.account_unreachable(account_id, error.message, error.hint)


def _principal_of(status: PrincipalStatus, iam: Iam) -> Principal:
    """Enough to find the user again; the look itself reads it freshly."""
    return Principal(
        account_id=iam.account_id,
        user_name=status.user_name,
        user_id=status.user_id,
        path="/",
        arn="",
    )


class _Places:
    """Which principals' places coincide, over all accounts, without regard to case."""

    def __init__(self, place_of: PlaceOf) -> None:
        self._place_of = place_of
        self._lock = threading.Lock()
        self._by_account: dict[AccountId, dict[UserId, str]] = {}
        self._owners: dict[str, UserId] = {}
        self._shared: frozenset[str] = frozenset()

    def learn(self, account_id: AccountId, rules: Rules, users: Sequence[Principal]) -> None:
        places: dict[UserId, str] = {}
        for user in users:
            if select(rules.policies, user).selection is Selection.LEFT:
                continue
            try:
                places[user.user_id] = _folded(self._place_of(user))
            except RefusedError:
                continue  # the look reports it
        with self._lock:
            self._by_account[account_id] = places
            owners: dict[str, UserId] = {}
            shared: set[str] = set()
            for one in self._by_account.values():
                for user_id, place in one.items():
                    if owners.setdefault(place, user_id) != user_id:
                        shared.add(place)
            self._owners, self._shared = owners, frozenset(shared)

    def collides(self, principal: Principal, place: Place) -> bool:
        """Whether another managed principal, of any account scanned so far, has the same place."""
        folded = _folded(place)
        return folded in self._shared or self._owners.get(folded, principal.user_id) != principal.user_id


def _folded(place: Place) -> str:
    return "\0".join((place.address, place.namespace, place.mount, place.path)).casefold()
