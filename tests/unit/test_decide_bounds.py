"""The corners of the decision table: rare combinations, the instant of every bound, and each field of an answer."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from rekeyd.core.actions import (
    Action,
    Burn,
    Claim,
    Close,
    Deactivate,
    Delete,
    Idle,
    IssueKey,
    OpenRotation,
    ProveHeld,
    Refuse,
    StartRetirement,
    Wait,
)
from rekeyd.core.decide import decide
from rekeyd.core.model import (
    Gate,
    Interval,
    IssueState,
    KeyFacts,
    KeyStatus,
    LastUse,
    NeverUsed,
    Observed,
    Origin,
    Proof,
    Retirement,
    RetireWhy,
    RotationKind,
    Selection,
    UseUnknown,
    VaultAbsent,
    VaultUnreadable,
)
from rekeyd.core.policy import Adopt, Attribution, Orphans, Policy, Repair, SpareKey, StillUsed
from rekeyd.core.reasons import Reason
from rekeyd.core.retire import held_too_long_since, retire
from rekeyd.core.unfinished import remove_unpublished
from tests.unit.test_decide import (
    AGED,
    ASKED,
    CREATING,
    DAY,
    DUE_AGE,
    EMERGENCY,
    HOUR,
    INTENT,
    NEW,
    NOW,
    OLD,
    OURS,
    OVERLAPPING,
    POLICY,
    R1,
    ROLLBACK,
    SECOND,
    SETTLE,
    THIRD,
    YOUNG,
    facts,
    held,
    history,
    inactive,
    key,
    proof,
    publication,
    retiring,
    rotation,
    see,
    used,
)

MINUTE = timedelta(minutes=1)
SPARE = replace(POLICY, adopt=Adopt.AT_ONCE, spare_key=SpareKey.RETIRE_UNUSED)
ISSUE = replace(POLICY, repair=Repair.ISSUE)
DEAD = proof(OLD, Proof.NOT_HONOURED)
WINDOWED = replace(POLICY, orphans=Orphans(attribution=Attribution.WINDOW))
OPEN_ROLLBACK = rotation(RotationKind.ROLLBACK, IssueState.OPENED, old=NEW, new=OLD)
LEFT = Selection.LEFT

ROLLBACKS: dict[str, tuple[Observed, Policy | None, Action]] = {
    "a person wants to go back and no key is on its way out": (
        see(YOUNG, vault=held(OLD), history=history(OLD, first=5), asked=ROLLBACK),
        POLICY,
        Refuse(reason=Reason.ROLLBACK_IMPOSSIBLE),
    ),
    "a person wants to go back and the history is not readable": (
        see(*OVERLAPPING, vault=held(NEW), asked=ROLLBACK, journal=facts(keys={OLD: retiring()})),
        POLICY,
        Refuse(reason=Reason.ROLLBACK_IMPOSSIBLE),
    ),
    "the target that Vault serves is refused by AWS": (
        see(
            *OVERLAPPING,
            vault=held(OLD, 6),
            history=history(OLD, NEW, OLD, first=4),
            proof=proof(OLD, Proof.UNAVAILABLE, version=6),
            journal=facts(rotation=OPEN_ROLLBACK),
        ),
        POLICY,
        Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=OLD),
    ),
    "the target that Vault serves was proven and is recorded": (
        see(
            *OVERLAPPING,
            vault=held(OLD, 6),
            history=history(OLD, NEW, OLD, first=4),
            proof=proof(OLD, version=6),
            journal=facts(rotation=OPEN_ROLLBACK),
        ),
        POLICY,
        ProveHeld(reason=Reason.PUBLISHED_BUT_UNRECORDED, publishes=R1),
    ),
    "an open rollback whose history is not readable waits for it": (
        see(*OVERLAPPING, vault=held(NEW), journal=facts(rotation=OPEN_ROLLBACK)),
        POLICY,
        Refuse(reason=Reason.VAULT_UNREADABLE, key_id=OLD),
    ),
    "an open rollback whose secret Vault no longer keeps ends": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            history=history(None, NEW, first=4),
            journal=facts(rotation=OPEN_ROLLBACK),
        ),
        POLICY,
        Close(rotation_id=R1, reason=Reason.ROLLBACK_IMPOSSIBLE, completed=False),
    ),
}

DEAD_KEYS: dict[str, tuple[Observed, Policy | None, Action]] = {
    "a missing held key that cannot be tried is dead until it can": (
        see(vault=held(OLD), proof=proof(OLD, Proof.UNAVAILABLE)),
        POLICY,
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD, until=NOW + SETTLE),
    ),
    "an Active key with a wrong secret is dead, and surely so from settle on": (
        see(
            YOUNG,
            vault=held(OLD),
            proof=proof(OLD, Proof.WRONG_SECRET),
            journal=facts(held_dead_since=NOW - SECOND),
            asked=ASKED,
        ),
        POLICY,
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD, until=NOW - SECOND + SETTLE),
    ),
    "a key first seen dead now is surely dead after settle": (
        see(vault=held(OLD), proof=DEAD, asked=ASKED),
        POLICY,
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD, until=NOW + SETTLE),
    ),
    "a repair that a person asked for goes on by itself": (
        see(
            vault=held(OLD),
            proof=DEAD,
            journal=facts(
                held_dead_since=NOW - DAY,
                publication=publication(OLD),
                rotation=rotation(RotationKind.REPAIR, IssueState.OPENED, old=None, new=None),
            ),
        ),
        POLICY,
        IssueKey(rotation_id=R1, reason=Reason.ROTATION_OPEN),
    ),
    "a repair finds no free slot": (
        see(
            inactive(OLD, age=9 * DAY),
            key(NEW, age=DAY),
            vault=held(OLD),
            proof=DEAD,
            journal=facts(held_dead_since=NOW - DAY, publication=publication(OLD)),
        ),
        ISSUE,
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD),
    ),
    "a rotation of another kind makes way for the repair": (
        see(
            vault=held(OLD),
            proof=DEAD,
            journal=facts(
                held_dead_since=NOW - DAY,
                publication=publication(OLD),
                rotation=rotation(state=IssueState.OPENED, new=None),
            ),
        ),
        ISSUE,
        Close(rotation_id=R1, reason=Reason.REPAIR, completed=False),
    ),
    "a braked fleet repairs nothing": (
        see(
            vault=held(OLD),
            proof=DEAD,
            journal=facts(held_dead_since=NOW - DAY, publication=publication(OLD)),
            gate=Gate(reason=Reason.BRAKED, until=NOW + DAY),
        ),
        ISSUE,
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD),
    ),
    "a freeze keeps no dead key from being repaired": (
        see(
            vault=held(OLD),
            proof=DEAD,
            journal=facts(held_dead_since=NOW - DAY, publication=publication(OLD)),
            gate=Gate(reason=Reason.FROZEN, until=NOW + DAY),
        ),
        ISSUE,
        OpenRotation(kind=RotationKind.REPAIR, reason=Reason.REPAIR),
    ),
    "a person may go back from a dead key": (
        see(
            key(OLD, age=90 * DAY),
            vault=held(NEW),
            history=history(OLD, NEW, first=4),
            proof=proof(NEW, Proof.NOT_HONOURED),
            asked=ROLLBACK,
            journal=facts(keys={OLD: retiring(started=HOUR)}),
        ),
        POLICY,
        OpenRotation(kind=RotationKind.ROLLBACK, reason=Reason.ROLLBACK, old_key_id=NEW, target=OLD),
    ),
    "a person names a key that is not there while the held one is gone": (
        see(vault=held(OLD), proof=DEAD, asked=replace(ASKED, replace=THIRD)),
        POLICY,
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD),
    ),
    "an old version shows nothing about a key while the held one is gone": (
        see(
            key(NEW, age=DAY),
            vault=held(OLD),
            history=history(NEW, OLD, first=4),
            proof=DEAD,
            asked=replace(ASKED, replace=THIRD),
        ),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "a key whose overlap ended stays while the held one is gone": (
        see(
            key(NEW, age=90 * DAY),
            vault=held(OLD),
            proof=DEAD,
            asked=replace(ASKED, replace=THIRD),
            journal=facts(keys={NEW: retiring(started=8 * DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=NEW),
    ),
}

OTHER_KEYS: dict[str, tuple[Observed, Policy | None, Action]] = {
    "the old key of a published rotation whose clock was lost gets a new one": (
        see(*OVERLAPPING, vault=held(NEW), journal=facts(rotation=rotation())),
        POLICY,
        StartRetirement(key_id=OLD, why=RetireWhy.OVERLAP, reason=Reason.FOUND_IN_VAULT),
    ),
    "a key that is newer than the held one was not replaced by it": (
        see(key(OLD, age=90 * DAY), key(NEW, age=DAY), vault=held(OLD), history=history(NEW, OLD, first=4)),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "of two waits the earlier one is told": (
        see(
            key(OLD, age=90 * DAY),
            inactive(NEW, age=DAY),
            vault=VaultAbsent(0),
            journal=facts(
                keys={
                    OLD: retiring(RetireWhy.SUPERSEDED, started=DAY),
                    NEW: retiring(RetireWhy.SUPERSEDED, deactivated=5 * DAY),
                }
            ),
        ),
        POLICY,
        Wait(until=NOW + 2 * DAY, reason=Reason.IN_QUARANTINE, key_id=NEW),
    ),
    "an overlap that ran out is not used while Vault is empty": (
        see(YOUNG, vault=VaultAbsent(0), journal=facts(keys={OLD: retiring(started=8 * DAY)})),
        POLICY,
        Refuse(reason=Reason.VAULT_DELETED, key_id=OLD),
    ),
    "a rotation finds no free slot": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            history=history(NEW, first=5),
            journal=facts(rotation=rotation(state=IssueState.OPENED, old=OLD, new=None)),
        ),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=OLD),
    ),
    "an adoption finds no free slot": (
        see(
            *OVERLAPPING,
            vault=VaultAbsent(0),
            journal=facts(rotation=rotation(RotationKind.ADOPT, IssueState.OPENED, new=None)),
        ),
        POLICY,
        Refuse(reason=Reason.NO_FREE_SLOT),
    ),
}

ADOPTIONS: dict[str, tuple[Observed, Policy | None, Action]] = {
    "a first key waits for a window": (
        see(vault=VaultAbsent(0), windows=(Interval(start=NOW + HOUR, end=NOW + DAY),)),
        replace(POLICY, create=True),
        Wait(until=NOW + HOUR, reason=Reason.OUTSIDE_WINDOW),
    ),
    "an adoption at once waits for a window too": (
        see(YOUNG, vault=VaultAbsent(0), windows=(Interval(start=NOW + HOUR, end=NOW + DAY),)),
        replace(POLICY, adopt=Adopt.AT_ONCE),
        Wait(until=NOW + HOUR, reason=Reason.OUTSIDE_WINDOW),
    ),
    "without any window in sight it is looked again after a day": (
        see(AGED, vault=held(OLD), windows=()),
        POLICY,
        Wait(until=NOW + DAY, reason=Reason.OUTSIDE_WINDOW),
    ),
    "a window that has gone by is none in sight": (
        see(AGED, vault=held(OLD), windows=(Interval(start=NOW - DAY, end=NOW),)),
        POLICY,
        Wait(until=NOW + DAY, reason=Reason.OUTSIDE_WINDOW),
    ),
    "a spare key of a user that is adopted only when asked stays": (
        see(key(OLD, age=9 * DAY), inactive(NEW, age=DAY), vault=VaultAbsent(0)),
        replace(SPARE, adopt=Adopt.WHEN_ASKED),
        Refuse(reason=Reason.TWO_KEYS_UNMANAGED, key_id=NEW),
    ),
    "and goes when somebody asks": (
        see(key(OLD, age=9 * DAY), inactive(NEW, age=DAY), vault=VaultAbsent(0), asked=ASKED),
        replace(SPARE, adopt=Adopt.WHEN_ASKED),
        StartRetirement(key_id=NEW, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY),
    ),
    "a spare key stays until the other one is due": (
        see(key(OLD, age=DUE_AGE - SECOND), inactive(NEW, age=2 * DUE_AGE), vault=VaultAbsent(0)),
        replace(SPARE, adopt=Adopt.WHEN_DUE),
        Wait(until=NOW + SECOND, reason=Reason.NOT_DUE),
    ),
    "and goes at the moment when the other one is due": (
        see(AGED, inactive(NEW, age=DAY), vault=VaultAbsent(0)),
        replace(SPARE, adopt=Adopt.WHEN_DUE),
        StartRetirement(key_id=NEW, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY),
    ),
    "a freeze keeps a spare key": (
        see(
            key(OLD, age=9 * DAY),
            inactive(NEW, age=DAY),
            vault=VaultAbsent(0),
            gate=Gate(reason=Reason.FROZEN, until=NOW + DAY),
        ),
        SPARE,
        Refuse(reason=Reason.FROZEN, until=NOW + DAY),
    ),
    "what a gate says of a named user holds for a spare key too": (
        see(
            key(OLD, age=9 * DAY),
            inactive(NEW, age=DAY),
            vault=VaultAbsent(0),
            asked=ASKED,
            gate=Gate(reason=Reason.RATE_LIMITED, until=NOW + DAY, binds_asked=False),
        ),
        SPARE,
        StartRetirement(key_id=NEW, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY),
    ),
    "a gate that does not bind a named user binds the policy": (
        see(AGED, vault=held(OLD), gate=Gate(reason=Reason.RATE_LIMITED, until=NOW + DAY, binds_asked=False)),
        POLICY,
        Refuse(reason=Reason.RATE_LIMITED, until=NOW + DAY),
    ),
    "a spare key that was never used is silent from its making on": (
        see(
            key(OLD, age=90 * DAY, use=NeverUsed()),
            key(NEW, age=DAY, use=used(HOUR)),
            vault=VaultAbsent(0),
        ),
        SPARE,
        StartRetirement(key_id=OLD, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY),
    ),
    "a key never used and a second too young is no spare": (
        see(
            key(OLD, age=90 * DAY - SECOND, use=NeverUsed()),
            key(NEW, age=DAY, use=used(HOUR)),
            vault=VaultAbsent(0),
        ),
        SPARE,
        Refuse(reason=Reason.TWO_KEYS_UNMANAGED),
    ),
}


def spare(use: LastUse | None, *, started: timedelta = timedelta(0)) -> Observed:
    shown = replace(key(OLD, age=300 * DAY), last_use=use)
    journal = facts(keys={OLD: retiring(RetireWhy.SPARE, started=started)})
    return see(shown, key(NEW, age=DAY, use=used(HOUR)), vault=VaultAbsent(0), journal=journal)


def orphan(use: LastUse | None) -> Observed:
    shown = replace(key(NEW, age=3 * DAY), last_use=use)
    return see(AGED, shown, vault=held(OLD), proof=proof(OLD), journal=facts(keys={NEW: retiring(RetireWhy.ORPHAN)}))


WAYS_OUT: dict[str, tuple[Observed, Policy | None, Action]] = {
    "a spare key has no overlap": (
        spare(NeverUsed()),
        SPARE,
        Deactivate(key_id=OLD, reason=Reason.SPARE_KEY),
    ),
    "a spare key silent for exactly as long as asked goes": (
        spare(used(90 * DAY)),
        SPARE,
        Deactivate(key_id=OLD, reason=Reason.SPARE_KEY),
    ),
    "a spare key used since then stays, however long": (
        spare(used(90 * DAY - SECOND), started=400 * DAY),
        replace(SPARE, still_used=StillUsed.DEACTIVATE),
        Refuse(reason=Reason.STILL_USED, key_id=OLD, until=NOW + SECOND),
    ),
    "a spare key of unknown use stays": (
        spare(UseUnknown("denied")),
        SPARE,
        Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=OLD),
    ),
    "a presumed orphan has no overlap": (
        orphan(NeverUsed()),
        WINDOWED,
        Deactivate(key_id=NEW, reason=Reason.ORPHAN_PRESUMED),
    ),
    "a presumed orphan that was used after all is a stray": (
        orphan(used(DAY)),
        WINDOWED,
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "a presumed orphan of unknown use stays": (
        orphan(UseUnknown("denied")),
        WINDOWED,
        Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=NEW),
    ),
    "a presumed orphan nobody asked about stays": (
        orphan(None),
        WINDOWED,
        Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=NEW),
    ),
    "a presumed orphan has its own quarantine": (
        see(
            AGED,
            inactive(NEW, age=9 * DAY),
            vault=held(OLD),
            proof=proof(OLD),
            journal=facts(keys={NEW: retiring(RetireWhy.ORPHAN, deactivated=2 * DAY)}),
        ),
        replace(POLICY, orphans=Orphans(attribution=Attribution.WINDOW, quarantine=3 * DAY)),
        Wait(until=NOW + DAY, reason=Reason.IN_QUARANTINE, key_id=NEW),
    ),
    "and a replaced key the policy's": (
        see(
            AGED,
            inactive(NEW, age=9 * DAY),
            vault=held(OLD),
            proof=proof(OLD),
            journal=facts(keys={NEW: retiring(RetireWhy.REPLACED, deactivated=2 * DAY)}),
        ),
        replace(POLICY, orphans=Orphans(quarantine=3 * DAY)),
        Wait(until=NOW + 5 * DAY, reason=Reason.IN_QUARANTINE, key_id=NEW),
    ),
    "a key that a person named goes though it is used": (
        see(
            AGED,
            key(NEW, age=DAY, use=used(SECOND)),
            vault=held(OLD),
            proof=proof(OLD),
            journal=facts(keys={NEW: retiring(RetireWhy.REPLACED)}),
        ),
        POLICY,
        Deactivate(key_id=NEW, reason=Reason.REPLACE_ASKED),
    ),
    "an emergency does not end the quarantine of a key whose use is unknown": (
        see(
            inactive(OLD, age=90 * DAY, use=UseUnknown("denied")),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            asked=EMERGENCY,
            journal=facts(keys={OLD: retiring(deactivated=HOUR)}),
        ),
        POLICY,
        Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=OLD),
    ),
    "an emergency proves the held pair before it ends a quarantine": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            asked=EMERGENCY,
            journal=facts(keys={OLD: retiring(deactivated=HOUR)}),
        ),
        POLICY,
        ProveHeld(reason=Reason.PROOF_NEEDED),
    ),
    "an emergency ends no quarantine while Vault is empty": (
        see(
            inactive(OLD, age=90 * DAY),
            vault=VaultAbsent(0),
            asked=EMERGENCY,
            journal=facts(keys={OLD: retiring(deactivated=HOUR)}),
        ),
        POLICY,
        Refuse(reason=Reason.VAULT_DELETED, key_id=OLD),
    ),
    "a quarantine that ran out is not used while Vault is empty": (
        see(
            inactive(OLD, age=90 * DAY), vault=VaultAbsent(0), journal=facts(keys={OLD: retiring(deactivated=8 * DAY)})
        ),
        POLICY,
        Refuse(reason=Reason.VAULT_DELETED, key_id=OLD),
    ),
    "with Vault empty a spare key is deleted on a person's word": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY, use=used(HOUR)),
            vault=VaultAbsent(0),
            journal=facts(keys={OLD: retiring(RetireWhy.SPARE, deactivated=7 * DAY)}),
        ),
        SPARE,
        Delete(key_id=OLD, reason=Reason.QUARANTINE_ENDED),
    ),
    "the old key of an emergency is not another rotation's": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(RotationKind.EMERGENCY, old=THIRD), keys={OLD: retiring()}),
        ),
        POLICY,
        Wait(until=NOW + 7 * DAY, reason=Reason.IN_OVERLAP, key_id=OLD),
    ),
}

MADE = replace(OURS, cas=4, made_at=NOW - HOUR)
REMADE = replace(history(OLD, OLD, OLD, first=3), created_at=NOW - HOUR + SECOND)


def unpublished(shown: object, *, fact: KeyFacts = MADE, version: int = 5) -> Observed:
    return see(
        *OVERLAPPING,
        vault=held(OLD, version),
        history=shown,
        journal=facts(proven_version=version, keys={NEW: fact}),
    )


LOST = Deactivate(key_id=NEW, reason=Reason.SECRET_LOST)
SLOWLY = StartRetirement(key_id=NEW, why=RetireWhy.SUPERSEDED, reason=Reason.PUBLICATION_UNCLEAR)

UNFINISHED: dict[str, tuple[Observed, Policy | None, Action]] = {
    "a key whose intent saw no Vault version retires slowly": (
        unpublished(history(OLD, first=5), fact=replace(MADE, cas=None)),
        POLICY,
        SLOWLY,
    ),
    "a key whose intent has no time retires slowly": (
        unpublished(history(OLD, OLD, first=4), fact=replace(MADE, made_at=None)),
        POLICY,
        SLOWLY,
    ),
    "a secret made anew since the intent proves nothing": (unpublished(REMADE), POLICY, SLOWLY),
    "a secret made at the moment of the intent was there before it": (
        unpublished(replace(REMADE, created_at=NOW - HOUR)),
        POLICY,
        LOST,
    ),
    "and so does the first version of a secret made anew": (
        unpublished(replace(history(OLD, OLD, OLD, OLD, first=2), created_at=NOW - MINUTE), fact=replace(MADE, cas=1)),
        POLICY,
        SLOWLY,
    ),
    "a place that was empty at the intent was made by what came after": (
        unpublished(replace(history(OLD, OLD), created_at=NOW - MINUTE), fact=replace(MADE, cas=0), version=2),
        POLICY,
        LOST,
    ),
    "a history that lags behind what Vault serves proves nothing": (
        unpublished(history(OLD, first=4)),
        POLICY,
        Refuse(reason=Reason.VAULT_UNREADABLE, key_id=NEW),
    ),
    "a history that ran ahead is whole": (unpublished(history(OLD, OLD, OLD, first=4)), POLICY, LOST),
    "the version of the intent itself need not be kept": (unpublished(history(OLD, first=5)), POLICY, LOST),
    "the version after the intent must be": (
        unpublished(history(OLD, first=6), version=6),
        POLICY,
        SLOWLY,
    ),
}


def appeared(age: timedelta, **changes: object) -> Observed:
    """A key that is there after an hour-old request of ours got no answer."""
    return see(
        key(OLD, age=DUE_AGE), key(NEW, age=age), vault=held(OLD), journal=facts(unresolved=(INTENT,)), **changes
    )


STRAY = Refuse(reason=Reason.STRAY_KEY, key_id=NEW)
ASKING = Wait(until=NOW + 5 * MINUTE, reason=Reason.AWAITING_CLOUDTRAIL, key_id=NEW)
NO_EVENT = {NEW: Origin.NO_EVENT}

ORPHANS: dict[str, tuple[Observed, Policy | None, Action]] = {
    "two seconds before our request a clock may be off": (
        appeared(HOUR + 2 * SECOND, origins=NO_EVENT),
        POLICY,
        ASKING,
    ),
    "three seconds before it the key was another's": (appeared(HOUR + 3 * SECOND, origins=NO_EVENT), POLICY, STRAY),
    "twenty minutes later our request may still arrive": (
        appeared(HOUR - 20 * MINUTE, origins=NO_EVENT),
        POLICY,
        ASKING,
    ),
    "a second after that it may not": (appeared(HOUR - 20 * MINUTE - SECOND, origins=NO_EVENT), POLICY, STRAY),
    "a key that was there before our request was not made by it": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(unresolved=(replace(INTENT, keys_before=frozenset({NEW})),)),
            origins=NO_EVENT,
        ),
        POLICY,
        STRAY,
    ),
    "the old key of the open rotation is not explained by a request": (
        see(
            key(OLD, age=HOUR),
            vault=VaultAbsent(0),
            journal=facts(
                rotation=replace(CREATING, kind=RotationKind.ADOPT),
                unresolved=(replace(INTENT, keys_before=frozenset()),),
            ),
        ),
        POLICY,
        Close(rotation_id=R1, reason=Reason.NOT_CREATED, completed=False),
    ),
    "an event that carries another operation of ours claims nothing": (
        appeared(HOUR, origins={NEW: Origin.OURS}, claims={NEW: "op2"}),
        POLICY,
        STRAY,
    ),
    "a short wait is divided by ten": (
        appeared(HOUR, origins=NO_EVENT),
        replace(POLICY, orphans=Orphans(wait=70 * MINUTE)),
        Wait(until=NOW + 5 * MINUTE, reason=Reason.AWAITING_CLOUDTRAIL, key_id=NEW),
    ),
    "and the next look comes no later than its end": (
        appeared(HOUR, origins=NO_EVENT),
        replace(POLICY, orphans=Orphans(wait=61 * MINUTE)),
        Wait(until=NOW + MINUTE, reason=Reason.AWAITING_CLOUDTRAIL, key_id=NEW),
    ),
    "in a demonstration CloudTrail is asked every tenth of the wait": (
        see(
            AGED,
            key(NEW, age=MINUTE),
            vault=held(OLD),
            journal=facts(unresolved=(replace(INTENT, sent_at=NOW - MINUTE),)),
            origins=NO_EVENT,
        ),
        replace(POLICY, orphans=Orphans(wait=10 * MINUTE)),
        Wait(until=NOW + MINUTE, reason=Reason.AWAITING_CLOUDTRAIL, key_id=NEW),
    ),
    "window: two seconds early counts": (
        appeared(HOUR + 2 * SECOND),
        WINDOWED,
        Wait(until=NOW - HOUR - 2 * SECOND + DAY, reason=Reason.ORPHAN_WATCHED, key_id=NEW),
    ),
    "window: a key that retires is no second candidate": (
        see(
            inactive(OLD, age=HOUR + SECOND),
            key(NEW, age=HOUR),
            vault=VaultAbsent(0),
            journal=facts(
                unresolved=(replace(INTENT, keys_before=frozenset()),),
                keys={OLD: retiring(RetireWhy.SPARE, deactivated=MINUTE)},
            ),
        ),
        WINDOWED,
        Wait(until=NOW - HOUR + DAY, reason=Reason.ORPHAN_WATCHED, key_id=NEW),
    ),
    "window: of two candidates neither is ours": (
        see(
            key(OLD, age=HOUR + SECOND),
            key(NEW, age=HOUR),
            vault=VaultAbsent(0),
            journal=facts(unresolved=(replace(INTENT, keys_before=frozenset()),)),
        ),
        WINDOWED,
        Refuse(reason=Reason.STRAY_KEY, key_id=OLD),
    ),
    "a key of ours that a person took back is nobody's orphan": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(unresolved=(INTENT,), keys={NEW: replace(OURS, published=True)}),
        ),
        POLICY,
        StartRetirement(key_id=NEW, why=RetireWhy.SUPERSEDED, reason=Reason.SUPERSEDED),
    ),
}

OF_NO_POLICY: dict[str, tuple[Observed, Policy | None, Action]] = {
    "a key on its way out stays where it is": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            selection=LEFT,
            journal=facts(keys={OLD: retiring(started=99 * DAY)}),
        ),
        None,
        Refuse(reason=Reason.LEFT_POLICY),
    ),
    "a published rotation stays open": (
        see(*OVERLAPPING, vault=held(NEW), selection=LEFT, journal=facts(rotation=rotation())),
        None,
        Refuse(reason=Reason.LEFT_POLICY),
    ),
    "a key of ours that was published stays": (
        see(
            *OVERLAPPING,
            vault=held(OLD),
            history=history(OLD, OLD, first=4),
            selection=LEFT,
            journal=facts(keys={NEW: replace(OURS, published=True)}),
        ),
        None,
        Idle(reason=Reason.LEFT_POLICY),
    ),
    "a stranger's key stays": (
        see(*OVERLAPPING, vault=held(OLD), history=history(OLD, OLD, first=4), selection=LEFT),
        None,
        Idle(reason=Reason.LEFT_POLICY),
    ),
    "before an unpublished key goes the version is burned": (
        see(*OVERLAPPING, vault=held(OLD, 4), selection=LEFT, journal=facts(keys={NEW: OURS})),
        None,
        Burn(rotation_id=R1, reason=Reason.SECRET_LOST),
    ),
    "our lost request is still explained": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            selection=LEFT,
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
            origins={NEW: Origin.OURS},
            claims={NEW: "op1"},
        ),
        None,
        Claim(rotation_id=R1, key_id=NEW, reason=Reason.ORPHAN_PROVEN),
    ),
    "and waits for its event as long as by the strictest rules": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            selection=LEFT,
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
            origins=NO_EVENT,
        ),
        None,
        ASKING,
    ),
    "a lost request that made nothing is closed": (
        see(AGED, vault=held(OLD), selection=LEFT, journal=facts(rotation=CREATING, unresolved=(INTENT,))),
        None,
        Close(rotation_id=R1, reason=Reason.NOT_CREATED, completed=False),
    ),
    "an open rollback stays open": (
        see(*OVERLAPPING, vault=held(NEW), selection=LEFT, journal=facts(rotation=OPEN_ROLLBACK)),
        None,
        Refuse(reason=Reason.LEFT_POLICY),
    ),
    "a key on its way out is not taken for an unpublished one": (
        see(
            *OVERLAPPING,
            vault=held(OLD),
            history=history(OLD, OLD, first=4),
            selection=LEFT,
            journal=facts(keys={NEW: replace(OURS, retirement=retiring().retirement)}),
        ),
        None,
        Refuse(reason=Reason.LEFT_POLICY),
    ),
}

CASES = {
    f"{chapter}: {sentence}": case
    for chapter, table in (
        ("rollback", ROLLBACKS),
        ("dead", DEAD_KEYS),
        ("other keys", OTHER_KEYS),
        ("adoption", ADOPTIONS),
        ("way out", WAYS_OUT),
        ("unfinished", UNFINISHED),
        ("orphan", ORPHANS),
        ("no policy", OF_NO_POLICY),
    )
    for sentence, case in table.items()
}


@pytest.mark.parametrize("case", CASES)
def test_the_decision(case: str) -> None:
    seen, policy, expected = CASES[case]
    assert decide(seen, policy, NOW) == expected


# --- what `decide` asks only after it made sure, and what holds all the same ------------------------------------------

OVER = Retirement(why=RetireWhy.OVERLAP, started_at=NOW - 8 * DAY)


@pytest.mark.parametrize("status", [None, KeyStatus.INACTIVE])
def test_an_accepted_proof_of_a_key_that_is_not_listed_active_retires_nothing(status: KeyStatus | None) -> None:
    old = key(OLD, age=90 * DAY)
    listed = () if status is None else (key(NEW, age=DAY, status=status),)
    seen = see(old, *listed, vault=held(NEW), proof=proof(NEW))
    assert retire(seen, POLICY, old, OVER, NOW) == Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=OLD)


def test_a_proof_without_a_verdict_retires_nothing() -> None:
    old = key(OLD, age=90 * DAY)
    seen = see(old, key(NEW, age=DAY), vault=held(NEW), proof=proof(NEW, Proof.UNAVAILABLE))
    assert retire(seen, POLICY, old, OVER, NOW) == Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=OLD)


def test_an_unpublished_key_is_left_alone_while_vault_is_unreadable() -> None:
    new = key(NEW, age=DAY)
    seen = see(new, vault=VaultUnreadable("sealed"), history=history(OLD, OLD, first=4))
    assert remove_unpublished(seen, new, R1, OURS) == Refuse(reason=Reason.VAULT_UNREADABLE, key_id=NEW)


HELD = replace(POLICY, overlap=7 * DAY, max_hold=30 * DAY)


@pytest.mark.parametrize("why", RetireWhy)
@pytest.mark.parametrize(
    ("age", "since"),
    [(37 * DAY - SECOND, None), (37 * DAY, NOW - 30 * DAY), (40 * DAY, NOW - 33 * DAY)],
    ids=["a second before max_hold", "at max_hold", "three days later"],
)
def test_a_key_is_held_too_long_from_max_hold_after_its_overlap(
    why: RetireWhy, age: timedelta, since: datetime | None
) -> None:
    by_its_use = why in (RetireWhy.OVERLAP, RetireWhy.SUPERSEDED, RetireWhy.ROLLED_BACK)
    retirement = Retirement(why=why, started_at=NOW - age)
    assert held_too_long_since(HELD, retirement, NOW) == (since if by_its_use else None)
