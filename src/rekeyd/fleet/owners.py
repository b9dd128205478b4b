"""Owners of users are told what concerns them: a rotation ahead, and an old key that is still used or was reactivated.

* A last use that cannot be read holds a key too, but only rekeyd's own rights mend that: its owner is not told.

* The owner stands in a tag of the user. Without the tag, or while tags cannot be read, nobody is told.
* Each is told once for a key: that is remembered in one transaction with the outbox, so neither a restart nor two
  processes tell it twice, and a channel that is down delays it.
* An owner to whom nothing can be sent (an odd tag) is logged and put into the audit trail, once, and nothing is sent.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rekeyd.core.events import Event
from rekeyd.core.findings_model import Finding
from rekeyd.core.model import AccountId, Principal
from rekeyd.core.notice import Notice
from rekeyd.core.policy import Policy
from rekeyd.core.reasons import Reason, Severity
from rekeyd.logs import get_logger
from rekeyd.ports import Alarm, Announcement, Clock, Journal, OwnerChannels, OwnerNotice, PrincipalStatus

log = get_logger()

ROTATION_AHEAD = "rotation_ahead"
"""Why an owner is told before a rotation; the other reasons are those of the hold."""
_AHEAD = frozenset({Reason.NOT_DUE, Reason.OUTSIDE_WINDOW, Reason.RATE_LIMITED})


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerDesk:
    """Any thread may use it."""

    journal: Journal
    clock: Clock
    channels: OwnerChannels
    tag: str
    notify_before: timedelta
    """Zero: owners are not told of rotations ahead."""

    def look(
        self,
        account_id: AccountId,
        users: Iterable[Principal],
        statuses: Iterable[PrincipalStatus],
        policies: Mapping[str, Policy],
        *,
        observing: bool,
    ) -> None:
        """Tell whoever is to be told now. `users`: with their tags, as the last scan read them. Raises JournalError."""
        if not self.channels.names or self.channels.problem is not None:
            return
        owners = {user.user_id: owner for user in users if (owner := owner_of(user, self.tag)) is not None}
        known = self.journal.owner_notices(account_id)
        for status in statuses:
            owner = owners.get(status.user_id)
            if owner is None:
                continue
            for notice in self._notices(status, owner, policies.get(status.policy or ""), observing=observing):
                if (notice.user_id, notice.announcement.alarm.reason, notice.key) not in known:
                    self._tell(notice, owner)

    def _tell(self, notice: OwnerNotice, owner: str) -> None:
        alarm = notice.announcement.alarm
        channels = self.channels.names_for(owner)
        if not self.journal.tell_owner(notice, channels, at=self.clock.now()):
            return
        event = Event.OWNER_TOLD if channels else Event.OWNER_UNTOLD
        tell = log.info if channels else log.warning
        tell(event, principal=alarm.principal, account_id=alarm.account_id, reason=alarm.reason)

    def _notices(
        self, status: PrincipalStatus, owner: str, policy: Policy | None, *, observing: bool
    ) -> Iterator[OwnerNotice]:
        now = self.clock.now()
        if (remedy := _HOLDS.get(status.reason)) is not None:
            key = status.old_access_key_id or ""
            yield _notice(
                status,
                owner,
                now,
                reason=status.reason.value,
                key=key,
                severity=Severity.MEDIUM,
                message=status.message,
                remedy=remedy.format(tag=self.tag, user=status.user_name, account=status.account_id),
            )
        elif status.reason in _AHEAD and status.next_at is not None and not observing:
            if not self.notify_before or now < status.next_at - self.notify_before:
                return
            key = status.held_access_key_id or "unmanaged"
            yield _notice(
                status,
                owner,
                now,
                reason=ROTATION_AHEAD,
                key=key,
                severity=Severity.LOW,
                message=_ahead(status),
                remedy=_ahead_remedy(policy),
            )


def owner_of(user: Principal, tag: str) -> str | None:
    """None: nobody, or it cannot be told. IAM's tag keys do not differ by case alone.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags.html
    """
    for name, value in (user.tags or {}).items():
        if name.casefold() == tag.casefold():
            return value.strip() or None
    return None


def _ahead(status: PrincipalStatus) -> str:
    key = status.held_access_key_id
    which = "" if key is None else f": {key}"
    when = f"from {status.next_at:%Y-%m-%d %H:%M} UTC on" if status.next_at is not None else "soon"
    return f"the user's access key will be replaced{which}, {when}"


def _ahead_remedy(policy: Policy | None) -> str:
    stays = "" if policy is None else f"; the old one keeps working for at least {_days(policy.overlap)} after that"
    return (
        "nothing, if every program of this user reads its key from Vault and reads it again when it changes; else make "
        f"it do so before then{stays}"
    )


_WHERE = " Where the pair lies: rekeyd explain {user} --account {account}. You are told as the user's tag {tag} says"
_MOVE_OVER = (
    "move the program that the last use points to over to the pair in Vault; the old key goes when nothing uses it."
    + _WHERE
)
_HOLDS = {
    Reason.STILL_USED: _MOVE_OVER,
    Reason.USED_IN_QUARANTINE: _MOVE_OVER,
    Reason.REACTIVATED: (
        "if you reactivated it, or a program of yours needs it: move that program over to the pair in Vault, then "
        "deactivate the old key again; rekeyd does not. If it was nobody of yours, tell your security team at once."
        + _WHERE
    ),
}
"""Why an old key is on hold, and what its owner does about it."""


def _notice(
    status: PrincipalStatus,
    owner: str,
    now: datetime,
    *,
    reason: str,
    key: str,
    severity: Severity,
    message: str,
    remedy: str,
) -> OwnerNotice:
    finding = Finding(
        severity=severity,
        reason=reason,
        account_id=status.account_id,
        principal=status.user_name,
        message=message,
        remedy=remedy,
    )
    alarm = Alarm(
        fingerprint=finding.fingerprint,
        severity=severity.value,
        reason=reason,
        account_id=status.account_id,
        principal=status.user_name,
        message=message,
        remedy=remedy,
        cis=(),
        first_seen_at=now,
        last_seen_at=now,
        notified_at=now,
        owner=owner,
    )
    return OwnerNotice(
        user_id=status.user_id, key=key, announcement=Announcement(kind=Notice.OWNER, alarm=alarm, at=now)
    )


def _days(span: timedelta) -> str:
    return f"{span.days} days" if span >= timedelta(days=2) else str(span)
