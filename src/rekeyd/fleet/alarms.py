"""Alarms: findings that a person must see, from their first sight to their end.

* An alarm is announced when it is raised, when its severity rises, again every `repeat_every` while it is open, and at
  its end. Its state is in the journal: a restart neither forgets nor repeats one.
* A person who acknowledged it is not told again until the acknowledgement ends; the alarm stays open, and as severe.
* It is written down before it is announced. An announcement that fails stays due and is made at the next update.
* That it was announced, and what each channel is still to be told, is one transaction: see `fleet.outbox`.
* It ends only when a look that could have found it did not. A scope that could not be looked at, and a reason that the
  facts could not decide, keep their alarms.
* Without a journal it is announced all the same, and then the journal's error is raised.

Findings of low severity are listed, never alarmed.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from rekeyd.core.events import Event
from rekeyd.core.findings import POSTURE_REASONS, Finding, FindingReason
from rekeyd.core.model import AccountId
from rekeyd.core.notice import AlarmState, Notice
from rekeyd.core.reasons import Severity
from rekeyd.errors import JournalError, StoppingError
from rekeyd.logs import get_logger
from rekeyd.ports import Alarm, Announcement, Clock, Journal

__all__ = ["AlarmKeeper", "Found", "LogNotifier", "Notice", "Notifier", "Scope"]

log = get_logger()

_RANK = {Severity.LOW: 0, Severity.MEDIUM: 1, Severity.HIGH: 2, Severity.CRITICAL: 3}


class Notifier(Protocol):
    """A way to people. What it raises is logged, and the announcement is made again at the next update."""

    def send(self, alarm: Alarm, kind: Notice) -> None: ...


class _Part(StrEnum):
    POSTURE = "posture"
    PASS = "pass"  # noqa: S105 - a part of an account
    FLEET = "fleet"
    VAULT = "vault"
    CHANNELS = "channels"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Scope:
    """What one look speaks for: every alarm belongs to exactly one scope."""

    part: _Part
    account_id: AccountId | None = None

    @classmethod
    def posture(cls, account_id: AccountId) -> "Scope":
        """What `core.findings.check` finds in an account."""
        return cls(_Part.POSTURE, account_id)

    @classmethod
    def account_pass(cls, account_id: AccountId) -> "Scope":
        """Refused principals of an account, and whether the account itself works."""
        return cls(_Part.PASS, account_id)

    @classmethod
    def fleet(cls) -> "Scope":
        """What belongs to no account, and to none of the two below."""
        return cls(_Part.FLEET)

    @classmethod
    def vault(cls) -> "Scope":
        """Whether Vault can be used."""
        return cls(_Part.VAULT)

    @classmethod
    def channels(cls) -> "Scope":
        """Whether people can be told."""
        return cls(_Part.CHANNELS)

    @classmethod
    def events(cls) -> "Scope":
        """Whether the event queue can be read."""
        return cls(_Part.EVENTS)

    def covers(self, alarm: Alarm | Finding) -> bool:
        if alarm.account_id is None:
            part = _NO_ACCOUNT.get(alarm.reason, _Part.FLEET)
        else:
            part = _Part.POSTURE if alarm.reason in POSTURE_REASONS else _Part.PASS
        return part is self.part and alarm.account_id == self.account_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All that one look at a scope found."""

    scope: Scope
    findings: Iterable[Finding]
    undecided: frozenset[FindingReason] = frozenset()
    """Reasons that the look could not decide (`core.findings.undecided`)."""
    complete: bool = True
    """False: the look was broken off, so what it did not find may still be there."""


_NO_ACCOUNT: dict[str, _Part] = {
    FindingReason.VAULT_UNREACHABLE: _Part.VAULT,
    FindingReason.SECRET_ID_INTERCEPTED: _Part.VAULT,
    FindingReason.CHANNEL_FAILING: _Part.CHANNELS,
    FindingReason.EVENTS_UNREADABLE: _Part.EVENTS,
}


def longest_acknowledgement(alarm: Alarm) -> timedelta:
    """A root key that is known is still a root key. AWS's word of exposed credentials may be about one."""
    root = alarm.severity == Severity.CRITICAL and alarm.reason.startswith(("root_", "credentials_"))
    return timedelta(days=7) if root else timedelta(days=90)


class LogNotifier:
    """Every announcement is a line of the log, at the level of the alarm's severity."""

    def send(self, alarm: Alarm, kind: Notice) -> None:
        event = _event(alarm, kind)
        fields = _fields(alarm)
        if kind is Notice.RESOLVED:
            level = log.warning if event is Event.ROOT_KEY_CLEARED else log.info
        elif kind is Notice.ACKNOWLEDGED:
            level = log.warning
        else:
            level = _levels()[Severity(alarm.severity)]
        level(event, notice=kind.value, **fields)


def _levels() -> dict[Severity, Any]:
    return {
        Severity.CRITICAL: log.critical,
        Severity.HIGH: log.error,
        Severity.MEDIUM: log.warning,
        Severity.LOW: log.info,
    }


def _event(alarm: Alarm, kind: Notice) -> Event:
    """The root user's alarms have names of their own, which alert rules are written against."""
    match kind, alarm.reason:
        case Notice.RESOLVED, FindingReason.ROOT_ACCESS_KEY:
            return Event.ROOT_KEY_CLEARED
        case Notice.RESOLVED, _:
            return Event.ALARM_RESOLVED
        case Notice.ACKNOWLEDGED, _:
            return Event.ALARM_ACKNOWLEDGED
        case _, FindingReason.ROOT_ACCESS_KEY:
            return Event.ROOT_KEY_PRESENT
        case _, FindingReason.ROOT_UNREADABLE:
            return Event.ROOT_KEY_UNREADABLE
        case Notice.REPEATED, _:
            return Event.ALARM_REPEATED
        case _:
            return Event.ALARM_RAISED


def _fields(alarm: Alarm) -> dict[str, object]:
    fields: dict[str, object] = {
        "reason": alarm.reason,
        "severity": alarm.severity,
        "alarm_id": alarm.fingerprint,
        "account_id": alarm.account_id,
        "principal": alarm.principal,
        "message": alarm.message,
        "remedy": alarm.remedy,
        "cis": list(alarm.cis),
        "first_seen_at": alarm.first_seen_at.isoformat(),
    }
    return {name: value for name, value in fields.items() if value is not None}


@dataclass(slots=True, kw_only=True)
class AlarmKeeper:
    """One for the process; any thread may use it.

    `notified_at` is None while the beginning, or for an ended alarm the end, is not announced yet.
    """

    journal: Journal
    clock: Clock
    repeat_every: timedelta
    notify: Notifier = field(default_factory=LogNotifier)
    """Told at once, and again if that fails: the log."""
    channels: tuple[str, ...] = ()
    """Told by way of the outbox."""
    unwritten: Callable[[tuple[Announcement, ...]], None] = lambda _announcements: None
    """Takes what should have gone into the outbox of a journal that cannot be written."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: dict[str, Alarm] = field(default_factory=dict)
    """As last known, for when the journal cannot be read."""
    _ended: dict[str, Alarm] = field(default_factory=dict)
    """Ends that nobody was told of yet."""
    _unsaved: dict[str, Alarm] = field(default_factory=dict)
    """What the journal did not take: it goes on counting here, and is written as soon as it can be."""
    _caught_up: bool = False
    _failure: JournalError | None = None

    def update(
        self,
        scope: Scope,
        findings: Iterable[Finding],
        *,
        undecided: frozenset[FindingReason] = frozenset(),
        complete: bool = True,
    ) -> tuple[tuple[Notice, Alarm], ...]:
        """Bring the scope's alarms in line with all its findings of now; returns what was announced.

        The other arguments: see `Found`. JournalError: after everything was announced.
        """
        return self.update_all([Found(scope=scope, findings=findings, undecided=undecided, complete=complete)])

    def update_all(self, looks: Iterable[Found]) -> tuple[tuple[Notice, Alarm], ...]:
        """As `update`, of several scopes that were looked at together: people get one message."""
        with self._lock:
            now = self.clock.now()
            self._failure = None
            self._read()
            due = [notice for look in looks for notice in self._judged(look, now)]
            ends = [(Notice.RESOLVED, alarm) for alarm in self._ended.values()]
            notices = [*(notice for notice in due if notice is not None), *ends]
            announced = tuple((kind, alarm) for kind, alarm in notices if self._told(alarm, kind))
            announced = self._put_down(announced, now)
            if self._failure is not None:
                raise self._failure
            return announced

    def hold(self, scope: Scope) -> tuple[tuple[Notice, Alarm], ...]:
        """The scope could not be looked at: nothing of it ends, and what is open is repeated."""
        return self.update(scope, (), complete=False)

    def acknowledge(self, fingerprint: str, *, until: datetime, by: str, because: str) -> Alarm | None:
        """None: no such alarm is open. JournalError: it could not be written down, and so does not count."""
        with self._lock:
            now = self.clock.now()
            alarm = self.journal.acknowledge(
                fingerprint, until=until, by=by, because=because, channels=self.channels, at=now
            )
            if alarm is not None:
                self._told(alarm, Notice.ACKNOWLEDGED)
            return alarm

    def open_alarms(self) -> tuple[Alarm, ...]:
        """Worst first, then oldest."""
        return tuple(
            sorted(self.journal.alarms(), key=lambda a: (-_RANK[Severity(a.severity)], a.first_seen_at, a.fingerprint))
        )

    # below: with the lock held

    def _read(self) -> None:
        """What other processes did counts too; ends that a killed process could not announce are found once."""
        try:
            if not self._caught_up:
                known = self.journal.alarms(open_only=False)
                self._ended = {a.fingerprint: a for a in known if a.resolved_at is not None and a.notified_at is None}
                self._caught_up = True
            self._open = {alarm.fingerprint: alarm for alarm in self.journal.alarms()}
        except JournalError as error:
            self._failed(error)
        for alarm in tuple(self._unsaved.values()):
            self._save(alarm)

    def _judged(self, look: Found, now: datetime) -> list[tuple[Notice, Alarm] | None]:
        mine = {mark: alarm for mark, alarm in self._open.items() if look.scope.covers(alarm)}
        loud = _loudest(look.findings)
        due = [self._found(finding, now) for finding in loud.values()]
        for mark, alarm in mine.items():
            if mark in loud:
                continue
            if not look.complete or alarm.reason in look.undecided:
                due.append(self._due(alarm, now))
            else:
                self._end(alarm, now)
        return due

    def _found(self, finding: Finding, now: datetime) -> tuple[Notice, Alarm] | None:
        mark = finding.fingerprint
        before = self._open.get(mark)
        # Grown worse, it counts as not announced yet.
        known = before if before is not None and _RANK[finding.severity] <= _RANK[Severity(before.severity)] else None
        alarm = Alarm(
            fingerprint=mark,
            severity=finding.severity.value,
            reason=finding.reason,
            account_id=finding.account_id,
            principal=finding.principal,
            message=finding.message,
            remedy=finding.remedy,
            cis=finding.cis,
            first_seen_at=before.first_seen_at if before is not None else now,
            last_seen_at=now,
            notified_at=known.notified_at if known is not None else None,
            repeats=known.repeats if known is not None else 0,
            acknowledged_until=known.acknowledged_until if known is not None else None,
            acknowledged_by=known.acknowledged_by if known is not None else None,
            acknowledged_because=known.acknowledged_because if known is not None else None,
        )
        self._save(alarm)
        return self._due(alarm, now)

    def _due(self, alarm: Alarm, now: datetime) -> tuple[Notice, Alarm] | None:
        if alarm.notified_at is None:
            return Notice.RAISED, alarm
        if alarm.state(now) is AlarmState.ACKNOWLEDGED:
            return None
        # A clock that was set back must not silence an alarm until it has caught up.
        if not now - self.repeat_every < alarm.notified_at <= now:
            return Notice.REPEATED, alarm
        return None

    def _end(self, alarm: Alarm, now: datetime) -> None:
        """Written down as ended and not announced; told with the others in `_ended`."""
        self._save(replace(alarm, resolved_at=now, notified_at=None))

    def _told(self, alarm: Alarm, kind: Notice) -> bool:
        """False: it stays due."""
        try:
            self.notify.send(alarm, kind)
        except StoppingError:
            raise
        except Exception as error:
            # Whatever it is: a broken channel must not cost the alarms behind this one.
            log.error(Event.NOTIFICATION_FAILED, notice=kind.value, exc_info=error, **_fields(alarm))
            return False
        return True

    def _put_down(self, announced: Iterable[tuple[Notice, Alarm]], now: datetime) -> tuple[tuple[Notice, Alarm], ...]:
        """The alarms as announced; all of one update go into one message of each channel."""
        sent = tuple(
            (kind, replace(alarm, notified_at=now, repeats=alarm.repeats + (kind is Notice.REPEATED)))
            for kind, alarm in announced
        )
        if not self.channels or not sent:
            for _, alarm in sent:
                self._save(alarm)
            return sent
        announcements = tuple(Announcement(kind=kind, alarm=alarm, at=now) for kind, alarm in sent)
        for _, alarm in sent:
            self._keep(alarm)
        try:
            self.journal.announce(announcements, self.channels, at=now)
        except JournalError as error:
            self._failed(error)
            self.unwritten(announcements)
        else:
            for _, alarm in sent:
                del self._unsaved[alarm.fingerprint]
        return sent

    def _save(self, alarm: Alarm) -> None:
        self._keep(alarm)
        try:
            self.journal.save_alarm(alarm)
        except JournalError as error:
            self._failed(error)
        else:
            del self._unsaved[alarm.fingerprint]

    def _keep(self, alarm: Alarm) -> None:
        """In memory, and marked as not written."""
        mark = alarm.fingerprint
        self._open.pop(mark, None)
        self._ended.pop(mark, None)
        if alarm.resolved_at is None:
            self._open[mark] = alarm
        elif alarm.notified_at is None:
            self._ended[mark] = alarm
        self._unsaved[mark] = alarm

    def _failed(self, error: JournalError) -> None:
        if self._failure is None:
            log.critical(Event.JOURNAL_FAILED, error=error.message)
            self._failure = error


def _loudest(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Findings that become alarms, one of a fingerprint."""
    loud: dict[str, Finding] = {}
    for finding in findings:
        other = loud.get(finding.fingerprint)
        if other is None or _RANK[finding.severity] > _RANK[other.severity]:
            loud[finding.fingerprint] = finding
    return {mark: finding for mark, finding in loud.items() if finding.severity is not Severity.LOW}
