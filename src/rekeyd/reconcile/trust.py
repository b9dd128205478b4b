"""Which of the journal's facts count, given what Vault shows.

A clock counts while an unbroken run of Vault versions of one place, from the one that the fact
is anchored to up to the current one, names the same access key ID. Somebody who
edits another field of the secret breaks nothing: each look moves the anchor on.
Versions that `max_versions` trimmed between two looks do not break the run either,
as long as every version still kept names the key and the secret was not made anew:
an editor who writes every second must not stop the clocks for ever
(docs/decisions/0003-trimmed-versions.md). A broken run restarts the clocks: later,
never sooner.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from rekeyd.core.model import (
    JournalFacts,
    KeyFacts,
    Place,
    Principal,
    VaultAbsent,
    VaultHeld,
    VaultHistory,
    VaultSeen,
)
from rekeyd.ports import AccountJournal, Anchored, Known

Note = Callable[[AccountJournal], None]
"""Something that a look found out and that the holder writes down."""


@dataclass(frozen=True, slots=True)
class Trusted:
    facts: JournalFacts
    notes: tuple[Note, ...] = ()


def anchor_of(vault: VaultSeen, place: Place) -> Anchored | None:
    """What `place` shows. None: no version that a fact could be anchored to."""
    match vault:
        case VaultHeld():
            return Anchored(
                access_key_id=vault.access_key_id,
                version=vault.version,
                version_created_at=vault.created_at,
                place=place,
            )
        case VaultAbsent():
            return Anchored(access_key_id=None, version=vault.version, version_created_at=None, place=place)
        case _:
            return None


def history_needed(known: Known, vault: VaultSeen, place: Place) -> bool:
    """Whether the anchor can only be checked against older versions."""
    current = anchor_of(vault, place)
    return current is not None and known.anchor is not None and not _same_version(known.anchor, current)


def trusted(
    principal: Principal, known: Known, vault: VaultSeen, place: Place, history: VaultHistory | None, now: datetime
) -> Trusted:
    """The facts with every clock that does not count any more started anew, and what to write down about it.

    `vault` and `history`: what `place` shows.
    """
    facts, current = known.facts, anchor_of(vault, place)
    if current is None:
        return Trusted(facts)
    if known.anchor is not None and _same_version(known.anchor, current):
        if known.anchor.place is not None:
            return Trusted(facts)
        return Trusted(facts, (lambda journal: journal.reanchor(principal, anchor=current),))
    if known.anchor is not None and _unbroken(known.anchor, current, history):
        return Trusted(facts, (lambda journal: journal.reanchor(principal, anchor=current),))
    if known.anchor is None and not any(fact.retirement is not None for fact in facts.keys.values()):
        return Trusted(facts)
    why = "Vault's versions since the last look do not all name the same access key"
    return Trusted(
        _restarted(facts, now),
        (lambda journal: journal.restart_clocks(principal, reason=why, anchor=current, at=now),),
    )


def _same_version(anchor: Anchored, current: Anchored) -> bool:
    if (anchor.access_key_id, anchor.version) != (current.access_key_id, current.version):
        return False
    if not _same_place(anchor, current):
        return False
    return (
        anchor.version_created_at is None
        or current.version_created_at is None
        or anchor.version_created_at == current.version_created_at
    )


def _same_place(anchor: Anchored, current: Anchored) -> bool:
    return anchor.place is None or anchor.place == current.place


def _unbroken(anchor: Anchored, current: Anchored, history: VaultHistory | None) -> bool:
    if history is None or anchor.access_key_id != current.access_key_id or anchor.version > current.version:
        return False
    if not _same_place(anchor, current):
        return False  # each place counts its versions from 1
    if anchor.version_created_at is not None and history.created_at > anchor.version_created_at:
        return False  # deleted with its metadata and made anew: numbering restarted
    run = [version for version in history.versions if version.version >= anchor.version]
    if not run or run[-1].version != current.version:
        return False
    first = run[0]
    if first.version == anchor.version and anchor.version_created_at not in (None, first.created_at):
        return False
    return all(version.readable and version.access_key_id == anchor.access_key_id for version in run)


def _restarted(facts: JournalFacts, now: datetime) -> JournalFacts:
    def fresh(key_facts: KeyFacts) -> KeyFacts:
        retirement = key_facts.retirement
        if retirement is None:
            return key_facts
        deactivated_at = None if retirement.deactivated_at is None else now
        return replace(key_facts, retirement=replace(retirement, started_at=now, deactivated_at=deactivated_at))

    return replace(facts, keys={key_id: fresh(key_facts) for key_id, key_facts in facts.keys.items()})
