"""What is watched besides rotations, and who hears of it: root users and posture of accounts, exposed keys, Vault,
channels, the event queue, and what passes found.

A look compares everything that is known of its scope with the alarms that are open, so every look can begin and end
them; between looks `repeat_alarms` only repeats.
"""

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from rekeyd.core.findings import (
    AccountSeen,
    Finding,
    FindingReason,
    ManagedSeen,
    check,
    found,
    root_state,
    undecided,
)
from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus, Principal, Selection
from rekeyd.core.policy import Policy, select
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.errors import Error, NotFoundError
from rekeyd.fleet.alarms import AlarmKeeper, Found, Scope
from rekeyd.fleet.exposure import Exposures
from rekeyd.fleet.left import left_findings
from rekeyd.fleet.mark import MarkKeeper
from rekeyd.fleet.owners import OwnerDesk
from rekeyd.fleet.posture import (
    Part,
    account_findings,
    exposed_findings,
    gather,
    held_too_long,
    managed_seen,
    newer_of,
    overdue_findings,
    principal_findings,
    unwatched,
)
from rekeyd.fleet.settings import FleetSettings
from rekeyd.fleet.vault import look_of
from rekeyd.logs import bound
from rekeyd.ports import Clock, Cloud, ExposedKey, Iam, Journal

# A credential report usually takes seconds; a scan does not wait longer for it, since it only selects.
REPORT_WAIT = timedelta(seconds=20)
_OVERDUE_AFTER = timedelta(hours=1)
# For users whose policy cannot be told: the default ages.
_ANY_POLICY = Policy(name="unknown")


@dataclass(slots=True, kw_only=True)
class Watch:
    """Thread-safe: root checks, the queue and passes of several accounts look at once."""

    cloud: Cloud
    journal: Journal
    clock: Clock
    settings: FleetSettings
    policies: tuple[Policy, ...]
    mark: MarkKeeper
    alarms: AlarmKeeper
    owners: OwnerDesk | None
    """Who tells the owners of users; None: nobody."""
    actor: str
    _seen: dict[AccountId, AccountSeen] = field(default_factory=dict)
    _users: dict[AccountId, tuple[Principal, ...]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # --- accounts: the root user and posture -------------------------------------------------------------------------

    def check_root(self, account_id: AccountId, *, anew: Collection[Part] = ()) -> float:
        """Look at the root user now, between two scans. Returns 1.0, 0.0, or NaN for "cannot tell"."""
        with bound(account_id=account_id):
            iam = self.cloud.iam(account_id)
            seen = self.look(iam, anew)
            self.answer_exposures(iam, seen)
            return root_state(seen)

    def root_states(self) -> Mapping[AccountId, float]:
        """For the metric: by account, 1.0, 0.0 or NaN."""
        return {account_id: root_state(seen) for account_id, seen in dict(self._seen).items()}

    def look(self, iam: Iam, anew: Collection[Part] = ()) -> AccountSeen:
        """Gather what is old, or in `anew`, and begin and end alarms by it. Raises StoppingError only."""
        seen = gather(
            iam,
            self.clock,
            previous=self._seen.get(iam.account_id),
            limits=self.settings.limits,
            report_wait=REPORT_WAIT,
            anew=anew,
        )
        self.judge(seen)
        return seen

    def judge(self, seen: AccountSeen, *, also: Iterable[Found] = ()) -> None:
        """`also`: what else was found, for people to read of it in the same message."""
        with self._lock:
            # A pass takes long, and a look that began after it may have ended before: what is newer stands.
            newest = self._seen.get(seen.account_id)
            if newest is not None and newest.seen_at > seen.seen_at:
                seen = newer_of(newest, seen)
            seen = replace(seen, managed=self._managed(seen.account_id))
            self._seen[seen.account_id] = seen
            found_ = check(seen, self.clock.now())
            posture = Found(scope=Scope.posture(seen.account_id), findings=found_, undecided=undecided(seen))
            self.alarms.update_all([*also, posture])

    def unwatched(self, account_id: AccountId, why: str) -> None:
        """An account that is excluded, suspended or no longer listed: said, never taken for clear."""
        self.judge(unwatched(account_id, why, self.clock, previous=self._seen.get(account_id)))

    def alias_of(self, account_id: AccountId) -> str | None:
        """As it was last seen; None also where it has not been looked at yet."""
        seen = self._seen.get(account_id)
        return None if seen is None else seen.alias

    def listed(self, account_id: AccountId, users: tuple[Principal, ...]) -> None:
        """All users of the account, by a scan: with their tags, which name policies and owners."""
        self._users[account_id] = users

    def _managed(self, account_id: AccountId) -> Mapping[str, ManagedSeen] | None:
        """By ARN; None before the first scan."""
        users = self._users.get(account_id)
        if users is None:
            return None
        statuses = {status.user_id: status for status in self.journal.statuses(account_id)}
        managed = {}
        for user in users:
            selected = select(self.policies, user)
            # Where it cannot be told, no policy is the strictest reading that accuses nobody falsely.
            policy = selected.policy if selected.selection is not Selection.UNKNOWN else _ANY_POLICY
            if policy is None:
                continue
            status = statuses.get(user.user_id)
            managed[user.arn] = (
                managed_seen(status, policy)
                if status is not None
                else ManagedSeen(
                    user_name=user.user_name,
                    policy=policy.name,
                    max_age=policy.max_age,
                    unused_after=policy.unused_after,
                    state=State.DUE,
                    reason=Reason.DUE,
                )
            )
        return managed

    # --- passes ------------------------------------------------------------------------------------------------------

    def tell_pass(self, account_id: AccountId, posture: AccountSeen | None = None) -> None:
        """After work on the account: its alarms, in one message with `posture` if that is given, and its owners."""
        found_ = self._pass_found(account_id)
        if posture is None:
            self.alarms.update_all(found_)
        else:
            self.judge(posture, also=found_)
        self._tell_owners(account_id)

    def pass_failed(self, account_id: AccountId) -> None:
        """The account could not be worked on: what its posture was stays open."""
        self.tell_pass(account_id)
        self.alarms.hold(Scope.posture(account_id))

    def _pass_found(self, account_id: AccountId) -> tuple[Found, ...]:
        """Refused principals, and whether the account itself works; brakes of the fleet belong to no account."""
        accounts = [status for status in self.journal.account_statuses() if status.account_id == account_id]
        brakes = self.journal.brakes()
        own = [brake for brake in brakes if brake.account_id == account_id]
        statuses = self.journal.statuses(account_id)
        now = self.clock.now()
        patience = max(2 * self.settings.scan_every, _OVERDUE_AFTER)
        findings = [
            *exposed_findings(self.journal.exposed_keys(account_id)),
            *principal_findings(statuses, held_too_long(statuses, self.journal, self.policies, now)),
            *overdue_findings(statuses, now=now, patience=patience),
            *account_findings(accounts, own),
            *left_findings(self.mark.vault, self.journal, self.clock, account_id, actor=self.actor),
        ]
        fleet = account_findings((), [b for b in brakes if b.account_id is None])
        return (
            Found(scope=Scope.account_pass(account_id), findings=findings),
            Found(scope=Scope.fleet(), findings=fleet),
        )

    def _tell_owners(self, account_id: AccountId) -> None:
        """Owners stand in tags, which a scan reads: before the first one nobody is told."""
        users = self._users.get(account_id)
        if self.owners is not None and users is not None:
            policies = {policy.name: policy for policy in self.policies}
            statuses = self.journal.statuses(account_id)
            self.owners.look(account_id, users, statuses, policies, observing=self.settings.observing)

    # --- exposed keys ------------------------------------------------------------------------------------------------

    def expose(self, account_id: AccountId, user_name: str, key_id: AccessKeyId, *, because: str, by: str) -> None:
        """A person's word: somebody has this key who should not. An alarm until the key is gone or Inactive."""
        self.journal.tell_exposed(
            ExposedKey(
                key_id=key_id,
                account_id=account_id,
                user_name=user_name,
                told_by=by,
                told_at=self.clock.now(),
                because=because,
            )
        )
        self._exposures.ask(account_id)
        self.tell_pass(account_id)

    def answer_exposures(self, iam: Iam, seen: AccountSeen) -> None:
        """Ask for the replacement of exposed keys, where their policies want it."""
        self._exposures.answer(iam, seen)

    def end_exposures(self, iam: Iam) -> None:
        """Of keys that are gone or Inactive by now."""
        for exposed in self.journal.exposed_keys(iam.account_id):
            try:
                keys = {key.id: key.status for key in iam.list_access_keys(exposed.user_name)}
            except NotFoundError:
                keys = {}
            if keys.get(exposed.key_id) is not KeyStatus.ACTIVE:
                self.journal.exposure_over(exposed, at=self.clock.now())

    @property
    def _exposures(self) -> Exposures:
        return Exposures(
            journal=self.journal, clock=self.clock, policies=self.policies, observing=self.settings.observing
        )

    # --- Vault, channels and the queue: no account's -----------------------------------------------------------------

    def vault_looked_at(self, problem: Error | None) -> None:
        """Whether Vault could be used just now; that it cannot is an alarm until it can."""
        look = look_of(problem)
        self.alarms.update(Scope.vault(), look.findings, undecided=look.undecided)

    def channels_looked_at(self, findings: Iterable[Finding]) -> None:
        """Which channels for alarms fail; all the others are told."""
        self.alarms.update(Scope.channels(), findings)

    def events_looked_at(self, problem: Error | None) -> None:
        """Whether the event queue could be read; None also when there is none to read."""
        findings = [] if problem is None else [found(FindingReason.EVENTS_UNREADABLE, detail=problem.message)]
        self.alarms.update(Scope.events(), findings)

    def repeat_alarms(self) -> None:
        """Whatever is open is repeated when its time has come, even if nobody can look at its account any more."""
        for scope in (Scope.fleet(), Scope.vault(), Scope.channels(), Scope.events()):
            self.alarms.hold(scope)
        for account_id in {alarm.account_id for alarm in self.journal.alarms()}:
            if account_id is not None:
                self.alarms.hold(Scope.posture(account_id))
                self.alarms.hold(Scope.account_pass(account_id))
