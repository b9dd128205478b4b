"""What people read: what happened, where, since when, and what to do. Never a secret: alarms hold none."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from rekeyd.core.brevity import written
from rekeyd.core.model import AccountId
from rekeyd.core.notice import Notice
from rekeyd.core.reasons import Severity
from rekeyd.ports import Alarm, Announcement, Batch, Message

SCHEMA_VERSION = 1
RESOLVED = "resolved"

_WORST_FIRST = {severity.value: rank for rank, severity in enumerate(Severity)}
_SHOWN = 20
"""Of a storm; people read no more, and `rekeyd alarms list` has them all."""
_DOCUMENTED = 500
_BRIEFLY = 1
"""Written out, and in the document, for a channel that refused the whole."""


def message_of(
    batch: Batch,
    *,
    instance: str,
    names: Mapping[AccountId, str],
    at: datetime,
    link: str | None = None,
    brief: bool = False,
) -> Message:
    """`names`: of accounts. `link`: a page with {reason}, {account_id}, {alarm_id}; None: there is none.

    One message, however many announcements. Announcements to an owner come in messages of their own.
    """
    told = _sorted(batch.announcements)
    worst = next((each.alarm.severity for each in told if each.kind is not Notice.RESOLVED), RESOLVED)
    paragraphs = tuple(_paragraph(each, names, link) for each in told[: _BRIEFLY if brief else _SHOWN])
    return Message(
        id=batch.id,
        at=at,
        severity=worst,
        title=_title(told, instance, names),
        text=written(paragraphs, len(told) - len(paragraphs)),
        paragraphs=paragraphs,
        left=len(told) - len(paragraphs),
        document={
            "schema_version": SCHEMA_VERSION,
            "id": batch.id,
            "instance": instance,
            "at": _time(at),
            "severity": worst,
            "owner": told[0].alarm.owner,
            "announcements": len(told),
            "alarms": [_entry(each, names, link) for each in told[: _BRIEFLY if brief else _DOCUMENTED]],
        },
    )


def trial_message(*, message_id: str, instance: str, at: datetime, owner: str | None = None) -> Message:
    """To see whether a channel works. Programs tell it from an alarm by `test`, and by `alarms`, which is empty.

    `owner`: of users, whom the channel is to reach.
    """
    what = "the alarms of rekeyd come" if owner is None else f"what rekeyd has to tell {owner} comes"
    text = f"This is a test message, no alarm. If you can read it, {what} through here."
    return Message(
        id=message_id,
        at=at,
        severity=RESOLVED,
        title=f"rekeyd {instance}: test of this channel",
        text=text,
        paragraphs=(text,),
        document={
            "schema_version": SCHEMA_VERSION,
            "id": message_id,
            "instance": instance,
            "at": _time(at),
            "severity": RESOLVED,
            "test": True,
            "announcements": 0,
            "alarms": [],
            "text": text,
        }
        | ({} if owner is None else {"owner": owner}),
    )


def _sorted(announcements: Iterable[Announcement]) -> tuple[Announcement, ...]:
    """Worst first, what is over last; what is about one alarm stays together, in its order.

    Of many repetitions of an alarm that a channel missed the last one says it all.
    """
    told = tuple(announcements)
    last = {each.alarm.fingerprint: each for each in told}
    repeated = {each.alarm.fingerprint: each for each in told if each.kind is Notice.REPEATED}
    kept = (each for each in told if each.kind is not Notice.REPEATED or each is repeated[each.alarm.fingerprint])

    def rank(each: Announcement) -> tuple[bool, int, datetime, str]:
        end = last[each.alarm.fingerprint]
        return (
            end.kind is Notice.RESOLVED,
            _WORST_FIRST[end.alarm.severity],
            each.alarm.first_seen_at,
            end.alarm.fingerprint,
        )

    return tuple(sorted(kept, key=rank))


def _title(told: Sequence[Announcement], instance: str, names: Mapping[AccountId, str]) -> str:
    first = told[0]
    if len(told) == 1:
        return f"rekeyd {instance}: {_label(first)}: {_what(first.alarm)}{_where(first.alarm, names)}"
    counted = Counter(_label(each) for each in told)
    summed = ", ".join(f"{count} {label}" for label, count in counted.items())
    return f"rekeyd {instance}: {summed}; first: {_what(first.alarm)}{_where(first.alarm, names)}"


def _label(told: Announcement) -> str:
    if told.kind is Notice.RESOLVED:
        return "over"
    if told.kind is Notice.OWNER:
        return "to the owner"
    suffix = {Notice.REPEATED: " (still)", Notice.ACKNOWLEDGED: " (acknowledged)"}.get(told.kind, "")
    return f"{told.alarm.severity.upper()}{suffix}"


def _what(alarm: Alarm) -> str:
    """The sentence of the reason, without its details."""
    return alarm.message.partition(": ")[0]


def _where(alarm: Alarm, names: Mapping[AccountId, str]) -> str:
    if alarm.account_id is None:
        return "" if alarm.principal is None else f" ({alarm.principal})"
    user = "" if alarm.principal is None else f", user {alarm.principal}"
    return f" (account {_account(alarm.account_id, names)}{user})"


def _account(account_id: AccountId, names: Mapping[AccountId, str]) -> str:
    name = names.get(account_id)
    return f"{account_id} {name}" if name else str(account_id)


def _paragraph(told: Announcement, names: Mapping[AccountId, str], link: str | None) -> str:
    alarm = told.alarm
    lines = [f"{_label(told)}: {alarm.message}"]
    if alarm.account_id is not None:
        lines.append(f"Where: account {_account(alarm.account_id, names)}")
    if alarm.principal is not None:
        lines.append(f"Who: {alarm.principal}")
    lines.append(f"Since: {_time(alarm.first_seen_at)}")
    match told.kind:
        case Notice.RESOLVED:
            lines.append(f"Over at: {_time(alarm.resolved_at)}")
        case Notice.ACKNOWLEDGED:
            lines.append(f"Acknowledged by {alarm.acknowledged_by} until {_time(alarm.acknowledged_until)}")
            lines.append(f"Because: {alarm.acknowledged_because}")
            lines.append("It is still open")
        case _:
            lines.append(f"What to do: {alarm.remedy}")
    if alarm.cis:
        lines.append(f"Clauses: {', '.join(alarm.cis)}")
    if (page := _page(alarm, link)) is not None:
        lines.append(f"Page: {page}")
    if told.kind is not Notice.OWNER:
        lines.append(f"Alarm: {alarm.fingerprint}")
    return "\n".join(lines)


def _page(alarm: Alarm, link: str | None) -> str | None:
    if link is None:
        return None
    values = {"reason": alarm.reason, "account_id": alarm.account_id or "", "alarm_id": alarm.fingerprint}
    return link.format(**{name: quote(value, safe="") for name, value in values.items()})


def _entry(told: Announcement, names: Mapping[AccountId, str], link: str | None) -> dict[str, object]:
    alarm = told.alarm
    return {
        "notice": told.kind.value,
        "announced_at": _time(told.at),
        "alarm_id": alarm.fingerprint,
        "severity": alarm.severity,
        "reason": alarm.reason,
        "account_id": alarm.account_id,
        "account_name": names.get(alarm.account_id) if alarm.account_id is not None else None,
        "principal": alarm.principal,
        "message": alarm.message,
        "remedy": alarm.remedy,
        "cis": list(alarm.cis),
        "first_seen_at": _time(alarm.first_seen_at),
        "resolved_at": _time(alarm.resolved_at),
        "acknowledged_until": _time(alarm.acknowledged_until),
        "acknowledged_by": alarm.acknowledged_by,
        "owner": alarm.owner,
        "link": _page(alarm, link),
    }


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
