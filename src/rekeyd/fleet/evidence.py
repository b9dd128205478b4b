"""What an auditor asks: every rotation with its times, what was refused or failed, alarms and who knew of them.

    evidence(journal, clock, since) -> document      from the audit trail alone, after its chain was verified

A rotation is complete evidence when it shows when the new key was proven and published, and when the old one stopped
working. Times are those at which rekeyd wrote the step down; the hash of each event stands beside it.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rekeyd.fleet.ages import ages
from rekeyd.fleet.documents import principal_entry, time_text
from rekeyd.ports import Clock, Journal, JournalEvent

SCHEMA_VERSION = 1

# Steps of a rotation, by the names of their events.
_STEPS = {
    "rotation.opened": "opened_at",
    "rollback.opened": "opened_at",
    "key.created": "created_at",
    "key.proven": "proven_at",
    "key.published": "published_at",
    "rotation.closed": "closed_at",
    "rollback.closed": "closed_at",
}
_RETIREMENT = {"key.deactivated": "old_key_deactivated_at", "key.deleted": "old_key_deleted_at"}
_ALARMS = frozenset({"alarm.raised", "alarm.acknowledged", "alarm.resolved", "exposure.told", "exposure.ended"})
_REFUSALS = frozenset({"principal.failed", "principal.refused", "key.not_created", "key.change_failed"})
_PEOPLE = frozenset(
    {
        "rotation.asked",
        "rotation.withdrawn",
        "brake.released",
        "root_key.delete_intended",
        "root_key.deleted",
        "sessions.revoking",
        "sessions.revoked",
        "sessions.lifted",
        "key.moved",
        "history.pruned",
    }
)
_JOURNAL = frozenset({"journal.created", "journal.restored", "clocks.restarted"})
"""A trail that begins anew, or goes on from an older copy, lacks what was before; the auditor must see where."""


def evidence(journal: Journal, clock: Clock, *, since: datetime | None) -> dict[str, Any]:
    """`chain.broken_at` is not null: the trail was changed, and nothing here proves anything. Raises JournalError."""
    now = clock.now()
    verdict = journal.verify()
    head = journal.head()
    everything = journal.history()
    events = [event for event in everything if since is None or event.at >= since]
    return {
        "schema_version": SCHEMA_VERSION,
        "as_of": time_text(now),
        "since": time_text(since),
        "instance": journal.instance,
        "chain": {
            "events": verdict.events,
            "broken_at": verdict.broken_at,
            "head": head.seq,
            "head_hash": head.event_hash,
        },
        "principals": [principal_entry(status, now) for status in journal.statuses()],
        "ages": ages(everything, since=since, now=now),
        "rotations": _rotations(events),
        "refusals": [_entry(event) for event in events if event.event in _REFUSALS],
        "alarms": [_entry(event) for event in events if event.event in _ALARMS],
        "people": [_entry(event) for event in events if event.event in _PEOPLE],
        "journal": [_entry(event) for event in events if event.event in _JOURNAL],
    }


def rows(document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The same, flat: one line an event or a rotation, for a spreadsheet; the first says whether the trail is whole."""
    chain = document["chain"]
    yield {
        "kind": "chain",
        "at": document["as_of"],
        "event": "whole" if chain["broken_at"] is None else "BROKEN",
        "detail": chain_text(chain),
        "hash": chain["head_hash"],
    }
    for each in document["ages"]:
        yield {"kind": "age", **each}
    for each in document["rotations"]:
        yield {"kind": "rotation", "at": each["opened_at"], "event": "rotation", **each}
    for kind in ("refusals", "alarms", "people", "journal"):
        for each in document[kind]:
            yield {"kind": kind.removesuffix("s"), **each}


def chain_text(chain: Mapping[str, Any]) -> str:
    if chain["broken_at"] is not None:
        return f"event {chain['broken_at']} does not follow from the one before it: nothing here proves anything"
    return f"{chain['events']} events, each follows from the one before it; the head is event {chain['head']}"


COLUMNS = (
    *("kind", "at", "event", "account_id", "user_name", "actor", "reason", "access_key_id", "detail", "rotation_id"),
    *("age_days", "age_days_before", "age_is"),
    *("old_key_id", "new_key_id", "opened_at", "created_at", "proven_at", "published_at"),
    *("old_key_deactivated_at", "old_key_deleted_at", "closed_at", "hash"),
)


def _rotations(events: Iterable[JournalEvent]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    by_old: dict[tuple[str | None, str | None], dict[str, Any]] = {}
    for event in events:
        rotation = found.get(event.rotation_id) if event.rotation_id is not None else None
        if rotation is None and event.rotation_id is not None:
            rotation = found[event.rotation_id] = _new(event)
        if rotation is not None and event.event in _STEPS:
            rotation[_STEPS[event.event]] = time_text(event.at)
            rotation["hash"] = event.hash
            if event.event == "key.created":
                rotation["new_key_id"] = event.access_key_id
            if event.event.endswith(".opened"):
                rotation["reason"] = None if event.reason is None else event.reason.value
                old = event.detail.get("old_key_id") or event.access_key_id
                rotation["old_key_id"] = old
                by_old[event.account_id, str(old)] = rotation
        elif event.event == "key.proven":
            # A proof is told of the user: the first one after the rotation began is that of its new pair.
            for each in found.values():
                same = (each["account_id"], each["user_name"]) == (event.account_id, event.user_name)
                if same and each["new_key_id"] is not None and each["proven_at"] is None:
                    each["proven_at"] = time_text(event.at)
        elif event.event in _RETIREMENT:
            # The old key's end is told of the key, not of the rotation.
            retired = by_old.get((event.account_id, event.access_key_id))
            if retired is not None:
                retired[_RETIREMENT[event.event]] = time_text(event.at)
    return list(found.values())


def _new(event: JournalEvent) -> dict[str, Any]:
    times = dict.fromkeys((*_STEPS.values(), *_RETIREMENT.values()))
    return {
        "rotation_id": event.rotation_id,
        "account_id": event.account_id,
        "user_name": event.user_name,
        "actor": event.actor,
        "reason": None,
        "old_key_id": None,
        "new_key_id": None,
        **times,
        "hash": event.hash,
    }


def _entry(event: JournalEvent) -> dict[str, Any]:
    detail = ", ".join(f"{name}={value}" for name, value in sorted(event.detail.items()) if value is not None)
    return {
        "at": time_text(event.at),
        "event": event.event,
        "actor": event.actor,
        "account_id": event.account_id,
        "user_name": event.user_name,
        "access_key_id": event.access_key_id,
        "reason": None if event.reason is None else event.reason.value,
        "detail": detail,
        "hash": event.hash,
    }
