"""What an auditor asks: users as they are now, ages of keys, rotations with their times, refusals, alarms, people.

    evidence(journal, clock, since) -> document  from the journal alone, after the chain of its audit trail was verified

A rotation is complete evidence when it shows when the new key was proven and published, and when the old one stopped
working. Times are those at which rekeyd wrote the step down: `proven_at`, when every Region of `proven_in` had accepted
the new pair, before Vault had it; `published_at`, when the pair that was read back from Vault had been accepted, too.
A user's refusal is told when it begins, and when its reason or keys change.
Beside an event stands its hash, beside a rotation that of its newest step.
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
    # Written as soon as every Region had accepted the pair, and before it is sent to Vault.
    "key.publish_intended": "proven_at",
    "key.published": "published_at",
    "rotation.closed": "closed_at",
    "rollback.closed": "closed_at",
}
_OPENED = frozenset({"rotation.opened", "rollback.opened"})
_OLD_KEY_OFF, _OLD_KEY_GONE = "old_key_deactivated_at", "old_key_deleted_at"
# Those of its old key are told of the key, whoever took them.
_ENDS = {
    "key.deactivated": _OLD_KEY_OFF,
    "quarantine.started": _OLD_KEY_OFF,
    "key.deleted": _OLD_KEY_GONE,
    "retirement.ended": _OLD_KEY_GONE,
}
_SETTLED = {"deactivate": "key.deactivated", "reactivate": "key.reactivated", "delete": "key.deleted"}
_RETURNS = frozenset({"key.reactivated", "quarantine.voided"})
_ALARMS = frozenset({"alarm.raised", "alarm.acknowledged", "alarm.resolved", "exposure.told", "exposure.ended"})
_REFUSALS = frozenset(
    {"principal.failed", "principal.refused", "principal.held", "key.not_created", "key.change_failed"}
)
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
        "rotations": rotations(everything, since=since),
        "refusals": [_entry(event) for event in events if _refuses(event)],
        "alarms": [_entry(event) for event in events if event.event in _ALARMS],
        "people": [_entry(event) for event in events if event.event in _PEOPLE],
        "journal": [_entry(event) for event in events if event.event in _JOURNAL],
    }


def rows(document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The same, flat, for a spreadsheet: one line a user, rotation or event; the first is on the chain of the trail."""
    chain = document["chain"]
    yield {
        "kind": "chain",
        "at": document["as_of"],
        "event": "whole" if chain["broken_at"] is None else "BROKEN",
        "detail": chain_text(chain),
        "hash": chain["head_hash"],
    }
    for each in document["principals"]:
        told = {name: each[name] for name in ("account_id", "user_name", "reason", "policy", "state", "age_days")}
        yield {
            "kind": "principal",
            "at": document["as_of"],
            "event": "now",
            "access_key_id": each["held_access_key_id"],
            "old_key_id": each["old_access_key_id"],
            "detail": each["message"],
            **told,
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
    *("policy", "state"),
    *("age_days", "age_days_before", "age_is"),
    *("old_key_id", "new_key_id", "opened_at", "created_at", "proven_at", "proven_in", "published_at"),
    *("old_key_deactivated_at", "old_key_deleted_at", "closed_at", "hash"),
)


def _refuses(event: JournalEvent) -> bool:
    """A person's request that was refused is served, by a no."""
    return event.event in _REFUSALS or (event.event == "request.served" and event.detail.get("answer") == "refused")


def rotations(events: Iterable[JournalEvent], *, since: datetime | None) -> list[dict[str, Any]]:
    """Those of which a step was taken since then, whole. `events`: all there are, also those before `since`."""
    found: dict[str, dict[str, Any]] = {}
    wanted: set[str] = set()
    retiring: dict[tuple[str | None, str], dict[str, Any]] = {}
    """The newest rotation that each key was the old key of."""
    for event in events:
        if event.rotation_id is not None:
            rotation = found.setdefault(event.rotation_id, _new(event))
            _add_step(rotation, event)
            if event.event in _OPENED and event.access_key_id is not None:
                retiring[event.account_id, event.access_key_id] = rotation
        elif event.access_key_id is not None:
            retired = retiring.get((event.account_id, event.access_key_id))
            if retired is None or not _add_end(retired, event):
                continue
            rotation = retired
        else:
            continue
        if since is None or event.at >= since:
            wanted.add(rotation["rotation_id"])
    return [rotation for rotation_id, rotation in found.items() if rotation_id in wanted]


def _new(event: JournalEvent) -> dict[str, Any]:
    return {
        "rotation_id": event.rotation_id,
        "account_id": event.account_id,
        "user_name": event.user_name,
        "actor": event.actor,
        "reason": None,
        "old_key_id": None,
        "new_key_id": None,
        "proven_in": None,
        **dict.fromkeys((*_STEPS.values(), *_ENDS.values())),
        "hash": event.hash,
    }


def _add_step(rotation: dict[str, Any], event: JournalEvent) -> None:
    name = event.event
    if name not in _STEPS:
        return
    if name in _OPENED:
        rotation["reason"] = None if event.reason is None else event.reason.value
        rotation["old_key_id"] = event.access_key_id
        rotation["new_key_id"] = event.detail.get("target")
    elif name == "key.created" and event.access_key_id != rotation["new_key_id"]:
        # What was proven before was another key, whose publication failed.
        rotation |= {"new_key_id": event.access_key_id, "proven_at": None, "proven_in": None}
    elif name == "key.publish_intended":
        if rotation["new_key_id"] not in (None, event.access_key_id):
            return
        rotation["proven_in"] = event.detail.get("proven_in")
    elif name == "key.published":
        rotation["new_key_id"] = event.access_key_id
    rotation[_STEPS[name]] = time_text(event.at)
    rotation["hash"] = event.hash


def _add_end(rotation: dict[str, Any], event: JournalEvent) -> bool:
    """Whether it is one. A call whose answer was lost counts once it was settled that it happened."""
    name = event.event
    if name == "key.change_settled" and event.detail.get("happened"):
        name = _SETTLED[str(event.detail["verb"])]
    if name in _ENDS:
        rotation[_ENDS[name]] = time_text(event.at)
    elif name in _RETURNS:
        rotation[_OLD_KEY_OFF] = None
    else:
        return False
    rotation["hash"] = event.hash
    return True


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
