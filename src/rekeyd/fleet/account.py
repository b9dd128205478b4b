"""The work on one account by its holder: principals side by side, each failure its own (P9)."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rekeyd.core.actions import IssueKey, OpenRotation, Refuse, Wait, publishes
from rekeyd.core.events import Event
from rekeyd.core.model import (
    AccessKey,
    AccountId,
    Asked,
    IssueState,
    KeyStatus,
    NeverUsed,
    Observed,
    Principal,
    Selection,
    Used,
    UseUnknown,
    VaultUnreadable,
)
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.errors import Error, LeaseLostError, NotFoundError, StoppingError
from rekeyd.fleet.gates import Gates
from rekeyd.fleet.settings import FleetSettings
from rekeyd.logs import bound, get_logger
from rekeyd.ports import AccountJournal, Clock, Iam, Journal, PrincipalStatus, Request
from rekeyd.reconcile.principal import Outcome, Reconciler, StepFailedError, again_at
from rekeyd.reconcile.rules import Circumstances

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What became of one principal in this pass."""

    principal: Principal
    outcome: Outcome | None = None
    error: Error | None = None
    gone: bool = False
    skipped: bool = False
    """It failed lately and is left alone until its back-off ends."""
    retry_at: datetime | None = None

    @property
    def published(self) -> bool:
        return self.outcome is not None and any(publishes(step) for step in self.outcome.steps)


@dataclass(slots=True, kw_only=True)
class AccountWork:
    account_id: AccountId
    iam: Iam
    lease: AccountJournal
    journal: Journal
    reconciler: Reconciler
    gates: Gates
    clock: Clock
    settings: FleetSettings
    around: Circumstances
    actor: str = "daemon"
    stop: threading.Event = field(default_factory=threading.Event)
    served_again_at: dict[int, datetime] = field(default_factory=dict)
    """Requests that only wait for time, by id: looking at them sooner would only cost calls."""
    _previous: dict[str, PrincipalStatus] | None = None

    def work(
        self,
        principals: Sequence[Principal],
        *,
        requests: Callable[[], Iterable[Request]] = tuple,
    ) -> list[Worked]:
        """All of them, `max_parallel` at a time. LeaseLostError and StoppingError end the pass; nothing else does.

        Between two principals pending requests are served, emergencies first.
        """
        done: list[Worked] = []
        lost: list[Error] = []
        guard = threading.Lock()

        def one(principal: Principal) -> None:
            if lost or self.stop.is_set():
                return
            with guard:
                pending = list(requests())
            for request in pending:
                if request.user_name.casefold() != principal.user_name.casefold():
                    self._collect(done, lost, lambda r=request: self.serve(r))  # type: ignore[misc]
            mine = next((r for r in pending if r.user_name.casefold() == principal.user_name.casefold()), None)
            if mine is not None:
                self._collect(done, lost, lambda: self.serve(mine))
                return
            self._collect(done, lost, lambda: self.reconcile(principal))

        if len(principals) <= 1 or self.settings.max_parallel == 1:
            for principal in principals:
                one(principal)
        else:
            with ThreadPoolExecutor(self.settings.max_parallel, thread_name_prefix="principal") as pool:
                futures = [pool.submit(copy_context().run, one, principal) for principal in principals]
                for future in futures:
                    future.result()
        if lost:
            raise lost[0]
        return done

    def _collect(self, done: list[Worked], lost: list[Error], work: Callable[[], Worked | None]) -> None:
        try:
            worked = work()
        except (LeaseLostError, StoppingError) as error:
            lost.append(error)
            return
        if worked is not None:
            done.append(worked)

    def serve(self, request: Request) -> Worked | None:
        """One request of a person. It stays open while it is only a matter of time; None: another thread serves it."""
        if self.clock.now() < self.served_again_at.get(request.id, _EVER) or not self._claim(request):
            return None
        try:
            try:
                principal = self.iam.get_user(request.user_name)
            except NotFoundError:
                self.journal.answer(request.id, "refused", reason=Reason.USER_GONE, at=self.clock.now())
                return None
            except Error as error:
                log.error(Event.PRINCIPAL_FAILED, principal=request.user_name, error=error.message)
                return None
            worked = self.reconcile(principal, asked=request.asked)
            self._answer(request, worked)
            again = worked.retry_at if worked.outcome is None else again_at(worked.outcome.rest)
            if again is not None:
                self.served_again_at[request.id] = again
            return worked
        finally:
            self._release(request)

    def _claim(self, request: Request) -> bool:
        with _SERVING_LOCK:
            if request.id in _SERVING or self.journal.request(request.id).answer is not None:
                return False
            _SERVING.add(request.id)
            return True

    def _release(self, request: Request) -> None:
        with _SERVING_LOCK:
            _SERVING.discard(request.id)

    def _answer(self, request: Request, worked: Worked) -> None:
        """A refusal ends a request that begun nothing; what was begun stays asked until it is published."""
        current = self.journal.request(request.id)
        if current.answer is not None or worked.outcome is None:
            return
        rest = worked.outcome.rest
        if current.begun and request.asked.replace is None:
            return
        if isinstance(rest, Wait) and rest.reason is Reason.SETTLING:
            return
        if request.asked.replace is not None and isinstance(rest, Wait):
            return  # planned: the rotation follows when the key is gone
        if isinstance(rest, Refuse) and _passes(rest):
            return
        reason = Reason.ROTATION_OPEN if isinstance(rest, Wait) else rest.reason
        self.journal.answer(request.id, "refused", reason=reason, at=self.clock.now())

    def reconcile(self, principal: Principal, *, asked: Asked | None = None) -> Worked:
        """One principal, isolated. LeaseLostError and StoppingError come through."""
        with bound(principal=principal.user_name):
            try:
                failures, retry_at = self.lease.failures(principal)
                if asked is None and retry_at is not None and self.settings.is_backoff(retry_at - self.clock.now()):
                    return Worked(principal=principal, skipped=True, retry_at=retry_at)
                around = replace(self.around, gate=self.gates.gate(self.account_id))
                outcome = self.reconciler.run(self.iam, self.lease, principal.user_name, around=around, asked=asked)
            except (LeaseLostError, StoppingError):
                raise
            except NotFoundError:
                return self._gone(principal)
            except StepFailedError as error:
                if isinstance(error.cause, LeaseLostError | StoppingError):
                    raise error.cause from error
                return self._failed(
                    principal, error, error.create_sent, None if error.look is None else error.look.seen
                )
            except Error as error:
                return self._failed(principal, error, create_sent=False, seen=None)
            except Exception as error:
                log.exception(Event.PRINCIPAL_FAILED)
                unforeseen = Error(f"{type(error).__name__} was not foreseen; see the log")
                return self._failed(principal, unforeseen, create_sent=False, seen=None)
            return self._succeeded(principal, outcome, failures)

    def _succeeded(self, principal: Principal, outcome: Outcome, failures: int) -> Worked:
        if failures:
            self.lease.succeeded(outcome.seen.principal)
            log.info(Event.PRINCIPAL_RECOVERED, failures=failures)
        if any(isinstance(step, IssueKey) for step in outcome.steps):
            self.gates.issued(self.account_id, principal.user_id, failed=False)
        elif any(isinstance(step, OpenRotation) for step in outcome.steps):
            self.gates.canary_over(self.account_id)
        self._save(outcome)
        rest = outcome.rest
        if isinstance(rest, Refuse):
            event = Event.PRINCIPAL_HELD if outcome.state == State.ON_HOLD else Event.PRINCIPAL_REFUSED
            log.warning(event, reason=rest.reason, access_key_id=rest.key_id)
        return Worked(principal=principal, outcome=outcome)

    def _failed(
        self,
        principal: Principal,
        error: Error,
        create_sent: bool,  # noqa: FBT001 - internal
        seen: Observed | None,
    ) -> Worked:
        now = self.clock.now()
        failures = self.lease.failures(principal)[0] + 1
        retry_at = now + self.settings.backoff(failures)
        self.lease.failed(principal, error=error.message, retry_at=retry_at, counts_for_brake=create_sent, at=now)
        log.error(Event.PRINCIPAL_FAILED, error=error.message, hint=error.hint, failures=failures, retry_at=retry_at)
        if create_sent:
            self.gates.issued(self.account_id, principal.user_id, failed=True, detail=error.message)
        else:
            self.gates.canary_over(self.account_id)
        before = self._before(principal)
        self.journal.save_status(_status_of_failure(principal, error, before, seen, retry_at, now), actor=self.actor)
        return Worked(principal=principal, error=error, retry_at=retry_at)

    def _before(self, principal: Principal) -> PrincipalStatus | None:
        """The user's status before this pass. Read when the first one fails, since most passes need none."""
        if self._previous is None:
            self._previous = {status.user_id: status for status in self.journal.statuses(self.account_id)}
        return self._previous.get(principal.user_id)

    def _gone(self, principal: Principal) -> Worked:
        """Deleted between the scan and the look: whatever was open for it ends."""
        rotation = self.lease.known(principal).facts.rotation
        if rotation is not None and rotation.state is not IssueState.CREATING:
            self.lease.close_rotation(
                principal, rotation.id, reason=Reason.USER_GONE, completed=False, at=self.clock.now()
            )
        self.journal.drop_status(self.account_id, [principal.user_id])
        return Worked(principal=principal, gone=True)

    def _save(self, outcome: Outcome) -> None:
        seen = outcome.seen
        if seen.selection is Selection.LEFT and seen.journal.rotation is None and outcome.state == State.UNMANAGED:
            self.journal.drop_status(self.account_id, [seen.principal.user_id])
            return
        self.journal.save_status(status_of(outcome), actor=self.actor)


_EVER = datetime.min.replace(tzinfo=UTC)

_SERVING: set[int] = set()
_SERVING_LOCK = threading.Lock()

# Refusals that end by themselves; the request waits for that.
_PASSING = frozenset(
    {Reason.PROOF_UNAVAILABLE, Reason.VAULT_UNREADABLE, Reason.HELD_KEY_NOT_HONOURED, Reason.RATE_LIMITED}
)


def _passes(refusal: Refuse) -> bool:
    # A dead held key is looked at twice before a person's wish to repair it is served.
    twice = refusal.reason is Reason.HELD_KEY_DEAD and refusal.until is not None
    return twice or refusal.reason in _PASSING


def status_of(outcome: Outcome) -> PrincipalStatus:
    """What `status` shows of a principal that came to rest."""
    seen, rest = outcome.seen, outcome.rest
    rotation = seen.journal.rotation
    other = getattr(rest, "key_id", None)
    if other is None and rotation is not None and seen.held_id != rotation.old_key_id:
        other = rotation.old_key_id
    active = [key.created_at for key in seen.keys if key.status is KeyStatus.ACTIVE]
    return PrincipalStatus(
        account_id=seen.principal.account_id,
        user_name=seen.principal.user_name,
        user_id=seen.principal.user_id,
        policy=None if outcome.policy is None else outcome.policy.name,
        state=outcome.state,
        reason=rest.reason,
        message=message_of(seen, outcome),
        held_access_key_id=seen.held_id,
        old_access_key_id=None if other == seen.held_id else other,
        held_created_at=None if seen.held is None else seen.held.created_at,
        oldest_active_at=min(active, default=None),
        next_at=again_at(rest),
        looked_at=outcome.looked_at,
    )


def message_of(seen: Observed, outcome: Outcome) -> str:
    """The reason's sentence, with the key, its age and its last use where a person will want them."""
    rest = outcome.rest
    text = rest.reason.sentence
    if isinstance(seen.vault, VaultUnreadable) and rest.reason is Reason.VAULT_UNREADABLE:
        return f"{text}: {seen.vault.detail}"
    key = seen.find(getattr(rest, "key_id", None))
    if key is None or not isinstance(rest, Refuse):
        return text
    days = (outcome.looked_at - key.created_at).days
    return f"{text}: {key.id}, {key.status}, {days} days old{_use_of(key)}"


def _use_of(key: AccessKey) -> str:
    match key.last_use:
        case Used(at=at, service=service, region=region):
            return f", last used {at:%Y-%m-%dT%H:%M:%SZ} with {service} in {region}"
        case NeverUsed():
            return ", never used"
        case UseUnknown():
            return ", last use unknown"
        case None:
            return ""  # nobody asked


def _status_of_failure(
    principal: Principal,
    error: Error,
    before: PrincipalStatus | None,
    seen: Observed | None,
    retry_at: datetime,
    now: datetime,
) -> PrincipalStatus:
    """The last known facts, with the failure as the reason."""
    after = _seen_facts(principal, seen, now) if seen is not None or before is None else before
    return replace(
        after,
        policy=None if before is None else before.policy,
        state=State.REFUSED,
        reason=Reason.STEP_FAILED,
        message=f"{Reason.STEP_FAILED.sentence}: {error.message}",
        old_access_key_id=None if before is None else before.old_access_key_id,
        next_at=retry_at,
        looked_at=now,
    )


def _seen_facts(principal: Principal, seen: Observed | None, now: datetime) -> PrincipalStatus:
    active = [] if seen is None else [key.created_at for key in seen.keys if key.status is KeyStatus.ACTIVE]
    held = None if seen is None else seen.held
    return PrincipalStatus(
        account_id=principal.account_id,
        user_name=principal.user_name,
        user_id=principal.user_id,
        policy=None,
        state=State.REFUSED,
        reason=Reason.STEP_FAILED,
        message=Reason.STEP_FAILED.sentence,
        held_access_key_id=None if seen is None else seen.held_id,
        old_access_key_id=None,
        held_created_at=None if held is None else held.created_at,
        oldest_active_at=min(active, default=None),
        next_at=None,
        looked_at=now,
    )
