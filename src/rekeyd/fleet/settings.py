"""What the fleet is told by the configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from rekeyd.core.findings_model import Limits
from rekeyd.core.policy import Freeze


class Mode(StrEnum):
    ENFORCE = "enforce"
    OBSERVE = "observe"
    """Look and alarm; change nothing outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    mode: Mode = Mode.ENFORCE
    freezes: Sequence[Freeze] = ()
    max_parallel: int = 16
    """Principals of one account that are worked on at the same time."""
    max_rotations_per_hour: int = 20
    stop_after_failures: int = 5
    """Failures in a row, by different users, after CreateAccessKey was sent."""
    brake_retry: timedelta = timedelta(hours=1)
    scan_every: timedelta = timedelta(hours=1)
    drift_every: timedelta = timedelta(hours=1)
    alarm_repeat_every: timedelta = timedelta(hours=4)
    unused_after: timedelta = timedelta(days=45)
    root_used_within: timedelta = timedelta(days=7)

    @property
    def observing(self) -> bool:
        return self.mode is Mode.OBSERVE

    @property
    def limits(self) -> Limits:
        """For findings that no policy speaks about."""
        return Limits(unused_after=self.unused_after, root_used_within=self.root_used_within)

    def backoff(self, failures: int) -> timedelta:
        """How long to leave a principal alone after so many failures in a row."""
        return self.scan_every * _BACKOFF[min(failures, len(_BACKOFF)) - 1]

    def is_backoff(self, left: timedelta) -> bool:
        """Whether a principal is left alone for so long. More is no wait of ours: the clock was ahead when it began."""
        return timedelta(0) < left <= self.scan_every * _BACKOFF[-1]


# Shares of the scan interval: with the default of 1 h these are 1, 2, 5, 15, 30 and 60 minutes.
_BACKOFF = (1 / 60, 1 / 30, 1 / 12, 1 / 4, 1 / 2, 1.0)
