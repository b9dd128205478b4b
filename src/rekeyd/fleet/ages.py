"""How old each user's oldest active access key was over time, by the audit trail alone.

    ages(events, since, now) -> rows

The age rises evenly until a key comes or goes, so a row at each of these moments tells all of it: how old the oldest
active key was just before, and how old the oldest one is just after. A key that rekeyd made is as old as the event
says; that of a key which was there before is written down when its rotation opens. Where neither is known, the age is
counted from the first event that names the key, and is the least it can be.

What the trail does not show is not here: keys that no event names (strangers' keys, users that were never rotated), and
what another hand did that rekeyd had no part in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from rekeyd.fleet.documents import time_text
from rekeyd.ports import JournalEvent

_ACTIVE = frozenset({"rotation.opened", "rollback.opened", "key.created", "key.reactivated", "quarantine.voided"})
_NOT_ACTIVE = frozenset({"key.deactivated", "key.deleted", "quarantine.started", "retirement.ended"})
_SETTLED = "key.change_settled"
_CHANGES = _ACTIVE | _NOT_ACTIVE | {_SETTLED}
_DAY = timedelta(days=1)


@dataclass(slots=True)
class _User:
    account_id: str | None
    user_name: str | None
    born: dict[str, tuple[datetime, bool]] = field(default_factory=dict)
    """By access key ID: since when it is known to be, and whether that is when it was made."""
    active: set[str] = field(default_factory=set)

    def oldest(self) -> str | None:
        return min(self.active, key=lambda key: (self.born[key][0], key), default=None)

    def learn(self, event: JournalEvent) -> None:
        key = event.access_key_id
        if key is None:
            return
        made_at = event.detail.get("old_key_created_at")
        if event.event == "key.created":
            self.born[key] = event.at, True
        elif isinstance(made_at, str):
            self.born[key] = datetime.fromisoformat(made_at), True
        self.born.setdefault(key, (event.at, False))
        if event.event == _SETTLED and not event.detail.get("happened"):
            return
        if event.event in _ACTIVE or event.detail.get("verb") == "reactivate":
            self.active.add(key)
        else:
            self.active.discard(key)

    def row(self, at: datetime, event: str, *, before: float | None, digest: str | None = None) -> dict[str, Any]:
        key = self.oldest()
        return {
            "at": time_text(at),
            "event": event,
            "account_id": self.account_id,
            "user_name": self.user_name,
            "access_key_id": key,
            "age_days": self.age(at),
            "age_days_before": before,
            "age_is": None if key is None else ("exact" if self.born[key][1] else "at least"),
            "hash": digest,
        }

    def age(self, at: datetime) -> float | None:
        """In days; None: no active key is known."""
        key = self.oldest()
        return None if key is None else round((at - self.born[key][0]) / _DAY, 2)


def ages(events: Iterable[JournalEvent], *, since: datetime | None, now: datetime) -> list[dict[str, Any]]:
    """`events`: all there are, oldest first, also those before `since`. Rows by user, then time; the last is of now.

    `access_key_id` is the oldest active key after the event.
    """
    users: dict[tuple[str | None, str | None], list[dict[str, Any]]] = {}
    known: dict[tuple[str | None, str | None], _User] = {}
    for event in events:
        if event.event not in _CHANGES or event.user_name is None or event.access_key_id is None:
            continue
        mark = (event.account_id, event.user_name.casefold())
        user = known.setdefault(mark, _User(event.account_id, event.user_name))
        user.user_name = event.user_name
        rows = users.setdefault(mark, [])
        wanted = since is None or event.at >= since
        if wanted and not rows and since is not None and user.active:
            rows.append(user.row(since, "since", before=None))
        if event.event == "rotation.opened":
            # The key was there before: what its rotation tells of its age holds for the moment before, too.
            user.learn(event)
        before = user.age(event.at)
        user.learn(event)
        if wanted:
            rows.append(user.row(event.at, event.event, before=before, digest=event.hash))
    return [row for mark in sorted(users, key=str) for row in _closed(users[mark], known[mark], since, now)]


def _closed(rows: list[dict[str, Any]], user: _User, since: datetime | None, now: datetime) -> Iterator[dict[str, Any]]:
    if not rows and since is not None and user.active:
        yield user.row(since, "since", before=None)
    yield from rows
    yield user.row(now, "now", before=None)
