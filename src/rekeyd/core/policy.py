"""A policy, whom it selects, and when a rotation is due by it.

Configuration is validated with the very functions that the behaviour uses:
`lead_time`, `minimum_max_age` and `due_at`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase

from rekeyd.core.model import Principal, Selection

# Rotations of a fleet that was adopted on one day shall not fall due on one day for ever.
# Jitter makes a rotation only earlier, by at most this share of max_age, and at most a day.
_JITTER_SHARE = 1 / 50
_JITTER_MOST = timedelta(days=1)


class Adopt(StrEnum):
    WHEN_ASKED = "when-asked"
    WHEN_DUE = "when-due"
    AT_ONCE = "at-once"


class Repair(StrEnum):
    REFUSE = "refuse"
    ISSUE = "issue"


class SpareKey(StrEnum):
    REFUSE = "refuse"
    RETIRE_UNUSED = "retire-unused"


class StillUsed(StrEnum):
    HOLD = "hold"
    DEACTIVATE = "deactivate"


class OnExposed(StrEnum):
    ALARM = "alarm"
    ROTATE = "rotate"


class Attribution(StrEnum):
    CLOUDTRAIL = "cloudtrail"
    WINDOW = "window"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """All given conditions must hold; an empty one is not given. User globs ignore case, as IAM's names do."""

    accounts: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    """Prefixes of the IAM path, such as `/service/`."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tag key (without regard to case, as in IAM's conditions) to a glob of its value."""

    @property
    def empty(self) -> bool:
        return not (self.accounts or self.users or self.paths or self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphans:
    """What is done about a key that a lost answer or a crash left behind."""

    attribution: Attribution = Attribution.CLOUDTRAIL
    wait: timedelta = timedelta(days=1)
    quarantine: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    cron: str
    """Five fields; weekdays as crontab counts them (1-5 is Monday to Friday)."""
    duration: timedelta
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """No rotation is opened from the first day to the last, both included, in UTC."""

    first_day: date
    last_day: date
    reason: str

    def covers(self, now: datetime) -> bool:
        return self.first_day <= now.date() <= self.last_day


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    name: str
    match: Match = field(default_factory=Match)
    exclude: Match = field(default_factory=Match)
    """Any of its conditions excludes."""
    max_age: timedelta = timedelta(days=90)
    overlap: timedelta = timedelta(days=7)
    quarantine: timedelta = timedelta(days=7)
    adopt: Adopt = Adopt.WHEN_ASKED
    create: bool = False
    repair: Repair = Repair.REFUSE
    spare_key: SpareKey = SpareKey.REFUSE
    spare_key_silent_for: timedelta = timedelta(days=90)
    unused_after: timedelta = timedelta(days=45)
    on_exposed: OnExposed = OnExposed.ALARM
    still_used: StillUsed = StillUsed.HOLD
    max_hold: timedelta = timedelta(days=30)
    unused_for: timedelta = timedelta(days=1)
    """The old key must have been silent this long. It must exceed the lag of IAM's last-used data."""
    verify_regions: tuple[str, ...] | None = None
    """None: `aws.region`, and the Region where the old key was last used."""
    verify_timeout: timedelta = timedelta(minutes=2)
    verify_first: timedelta = timedelta(seconds=3)
    verify_probes: int = 3
    verify_spacing: timedelta = timedelta(seconds=1)
    publish_timeout: timedelta = timedelta(minutes=10)
    windows: tuple[WindowSpec, ...] = ()
    """Empty: always open."""
    lead: timedelta = timedelta(0)
    """By `lead_time`; derived from windows, scan interval and time-outs when the configuration is read."""
    orphans: Orphans = field(default_factory=Orphans)


def step_time(*, verify_first: timedelta, verify_timeout: timedelta, publish_timeout: timedelta) -> timedelta:
    """The longest that issuing one key may take."""
    return verify_first + verify_timeout + publish_timeout


def lead_time(*, longest_closed: timedelta, scan_every: timedelta, step: timedelta) -> timedelta:
    """How much earlier a rotation must fall due so that it is finished in time all the same."""
    return longest_closed + scan_every + step


def minimum_max_age(*, overlap: timedelta, quarantine: timedelta, unused_for: timedelta, lead: timedelta) -> timedelta:
    """Below this a rotation would fall due before the last one has ended."""
    return 2 * overlap + quarantine + unused_for + lead


def due_at(policy: Policy, principal: Principal, created_at: datetime) -> datetime:
    """When the rotation of a key made at `created_at` falls due."""
    return created_at + policy.max_age - policy.overlap - policy.lead - jitter(policy, principal)


def jitter(policy: Policy, principal: Principal) -> timedelta:
    """A stable share of the slack, so that the same principal always gets the same date."""
    slack = policy.max_age - minimum_max_age(
        overlap=policy.overlap, quarantine=policy.quarantine, unused_for=policy.unused_for, lead=policy.lead
    )
    span = min(policy.max_age * _JITTER_SHARE, _JITTER_MOST, max(slack, timedelta(0)))
    digest = hashlib.sha256(f"{principal.account_id}/{principal.user_id}".encode()).digest()
    return span * (int.from_bytes(digest[:8], "big") / 2**64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    selection: Selection
    policy: Policy | None
    """The first that matches; None: none does, or it cannot be told."""
    excluded_by: str | None = None
    """The policy whose `exclude` kept the principal out."""


def select(policies: Sequence[Policy], principal: Principal) -> Selected:
    """First match wins. Tags that could not be read leave it open as soon as a policy asks for them (P4).

    A principal that the first matching policy excludes is not handed on to a later policy: an exclusion is
    a person's "hands off", and a broader policy further down must not overrule it.
    """
    for policy in policies:
        match = _matches(policy.match, principal)
        if match is False:
            continue
        excluded = _excludes(policy.exclude, principal)
        if match is None or excluded is None:
            return Selected(selection=Selection.UNKNOWN, policy=None)
        if excluded:
            return Selected(selection=Selection.LEFT, policy=None, excluded_by=policy.name)
        return Selected(selection=Selection.MANAGED, policy=policy)
    return Selected(selection=Selection.LEFT, policy=None)


def _matches(match: Match, principal: Principal) -> bool | None:
    """Whether all given conditions hold; None: it depends on tags that could not be read."""
    if match.accounts and principal.account_id not in match.accounts:
        return False
    if match.users and not _any_glob(match.users, principal.user_name):
        return False
    if match.paths and not principal.path.startswith(match.paths):
        return False
    if not match.tags:
        return True
    if principal.tags is None:
        return None
    return all(_has_tag(principal.tags, key, glob) for key, glob in match.tags.items())


def _excludes(exclude: Match, principal: Principal) -> bool | None:
    """Whether any given condition holds; None: it depends on tags that could not be read."""
    if principal.account_id in exclude.accounts or _any_glob(exclude.users, principal.user_name):
        return True
    if exclude.paths and principal.path.startswith(exclude.paths):
        return True
    if not exclude.tags:
        return False
    if principal.tags is None:
        return None
    return any(_has_tag(principal.tags, key, glob) for key, glob in exclude.tags.items())


def _any_glob(globs: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name.casefold(), glob.casefold()) for glob in globs)


def _has_tag(tags: Mapping[str, str], key: str, glob: str) -> bool:
    return any(k.casefold() == key.casefold() and fnmatchcase(v, glob) for k, v in tags.items())
