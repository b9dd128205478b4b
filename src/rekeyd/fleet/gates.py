"""What keeps a rotation from being opened: observe mode, freezes, the brake, the hourly limit.

The brake (P9): only failures after CreateAccessKey was sent count. Different users
that fail in a row stop their account; a second account that brakes stops the fleet.
It keeps rotations from being opened and nothing else. After `brake_retry` one canary
goes through: its success releases the brake, its failure engages it anew.
"""

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta

from rekeyd.core.actions import OpenRotation
from rekeyd.core.events import Event
from rekeyd.core.model import AccountId, Asked, Gate, RotationKind, UserId
from rekeyd.core.reasons import Reason
from rekeyd.errors import PostponedError
from rekeyd.fleet.settings import FleetSettings
from rekeyd.logs import get_logger
from rekeyd.ports import Brake, Clock, Journal

log = get_logger()

_HOUR = timedelta(hours=1)

# So many braked accounts mean that the cause is not in one account.
_ACCOUNTS_FOR_FLEET = 2


@dataclass(slots=True, kw_only=True)
class Gates:
    journal: Journal
    clock: Clock
    settings: FleetSettings
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _canaries: dict[AccountId | None, float] = field(default_factory=dict)
    """By whose brake it tries, since when (monotonic)."""

    def gate(self, account_id: AccountId) -> Gate | None:
        """Why no rotation may be opened in this account now; None: nothing stands in the way."""
        now = self.clock.now()
        if self.settings.observing:
            return Gate(reason=Reason.OBSERVE_MODE, until=None)
        for brake in self._binding(account_id):
            if now < brake.retry_at:
                return Gate(reason=Reason.BRAKED, until=brake.retry_at)
        freeze = next((f for f in self.settings.freezes if f.covers(now)), None)
        if freeze is not None:
            ends_at = datetime.combine(freeze.last_day + timedelta(days=1), time(), tzinfo=UTC)
            return Gate(reason=Reason.FROZEN, until=ends_at)
        return None

    def before_open(self, step: OpenRotation, asked: Asked | None, account_id: AccountId) -> None:
        """PostponedError: the hourly limit is reached, or a canary is already under way."""
        if step.kind in (RotationKind.EMERGENCY, RotationKind.ROLLBACK):
            return
        with self._lock:
            now = self.clock.now()
            if (
                asked is None
                and self.journal.rotations_opened_since(now - _HOUR) >= self.settings.max_rotations_per_hour
            ):
                raise PostponedError(Reason.RATE_LIMITED, now + self.settings.backoff(3))
            brakes = self._binding(account_id)
            for brake in brakes:
                if now < brake.retry_at or self._canary_under_way(brake):
                    raise PostponedError(Reason.BRAKED, max(brake.retry_at, now + self.settings.backoff(3)))
            # Only when no brake objects: a canary of the account that the fleet's brake holds back would never end.
            for brake in brakes:
                self._canaries[brake.account_id] = self.clock.monotonic()
                log.warning(Event.BRAKE_TRIED, braked=brake.account_id or "fleet")

    def issued(self, account_id: AccountId, user_id: UserId, *, failed: bool, detail: str = "") -> None:
        """After CreateAccessKey was sent: count for the brake."""
        with self._lock:
            now, braked = self.clock.now(), self._binding(account_id)
            self._forget_canaries(braked)
            failures = self.journal.note_issue_result(account_id, user_id, failed=failed)
            if not failed:
                for brake in braked:
                    self.journal.release_brake(brake.account_id, actor="canary", at=now)
                    log.warning(Event.BRAKE_RELEASED, braked=brake.account_id or "fleet", by="canary")
                return
            if braked or failures >= self.settings.stop_after_failures:
                self._engage(account_id, failures, detail, now)

    def canary_over(self, account_id: AccountId) -> None:
        """The canary came to rest without having sent CreateAccessKey: the next one may try."""
        with self._lock:
            self._forget_canaries(self._binding(account_id))

    def _canary_under_way(self, brake: Brake) -> bool:
        """One whose end nobody told (its lease was lost, say) counts for `brake_retry` and no longer."""
        since = self._canaries.get(brake.account_id)
        return since is not None and self.clock.monotonic() - since < self.settings.brake_retry.total_seconds()

    def _forget_canaries(self, brakes: list[Brake]) -> None:
        for brake in brakes:
            self._canaries.pop(brake.account_id, None)

    def _engage(self, account_id: AccountId, failures: int, detail: str, now: datetime) -> None:
        retry_at = now + self.settings.brake_retry
        brake = Brake(account_id=account_id, engaged_at=now, retry_at=retry_at, failures=failures, detail=detail)
        self.journal.engage_brake(brake, at=now)
        log.critical(Event.BRAKE_ENGAGED, braked=account_id, failures=failures, error=detail)
        braked_accounts = [b for b in self.journal.brakes() if b.account_id is not None]
        if len(braked_accounts) >= _ACCOUNTS_FOR_FLEET:
            fleet = Brake(account_id=None, engaged_at=now, retry_at=retry_at, failures=failures, detail=detail)
            self.journal.engage_brake(fleet, at=now)
            log.critical(Event.BRAKE_ENGAGED, braked="fleet", failures=failures, error=detail)

    def _binding(self, account_id: AccountId) -> list[Brake]:
        return [brake for brake in self.journal.brakes() if brake.account_id in (account_id, None)]
