"""Which open alarms a live look leaves standing: those that it could neither find again nor clear.

A look of `audit` is not the daemon's: it takes no step, so it cannot see that one failed; it reads no event queue and
sends nothing to a channel; and what a person said of a key is in the journal alone. Such alarms stay what they are, as
do those of what it could not look at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rekeyd.core.findings import POSTURE_REASONS, AccountSeen, FindingReason, undecided
from rekeyd.core.model import AccountId
from rekeyd.core.reasons import Reason
from rekeyd.ports import Alarm

# Refusals that a look without a step and without the mark in Vault does not come to.
_BY_STEPS = frozenset(
    {Reason.STEP_FAILED, Reason.MARK_OF_ANOTHER_INSTANCE, Reason.MARK_NOT_WRITABLE, Reason.JOURNAL_RESTORED}
)
_BY_LISTING = frozenset({FindingReason.ACCOUNT_UNREACHABLE})
# The brakes that are engaged now are read, too.
_BY_BRAKES = frozenset({FindingReason.ACCOUNT_BRAKED, FindingReason.FLEET_BRAKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """How far a live look came."""

    accounts: Mapping[AccountId, AccountSeen]
    """What it was judged by; an account that is missing was not looked at."""
    watched: frozenset[AccountId]
    """Those that it was to look in."""
    listed: frozenset[AccountId]
    """Whose users could be listed."""
    failed: frozenset[tuple[AccountId, str]]
    """Users that could not be looked at."""

    @property
    def complete(self) -> bool:
        """Whether everything could be looked at."""
        return (
            self.listed == self.watched
            and not self.failed
            and not any(undecided(self.accounts[each]) for each in self.watched)
        )

    def decides(self, alarm: Alarm) -> bool:
        """Whether the look would have found it, were it still so."""
        if alarm.reason in _BY_BRAKES:
            return True
        account_id = alarm.account_id
        if account_id is None:
            return False
        if alarm.reason in POSTURE_REASONS:
            seen = self.accounts.get(account_id)
            return seen is not None and alarm.reason not in undecided(seen)
        if alarm.reason in _BY_LISTING:
            return account_id in self.listed
        is_refusal = alarm.reason in _REFUSALS
        return is_refusal and account_id in self.listed and (account_id, alarm.principal) not in self.failed


def standing(alarms: Iterable[Alarm], looked: Looked) -> tuple[Alarm, ...]:
    return tuple(alarm for alarm in alarms if not looked.decides(alarm))


_REFUSALS = frozenset(Reason) - _BY_STEPS
