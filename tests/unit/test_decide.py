"""The decision table: what is seen, and the one thing that is done about it. Keys are sentences; bounds are exact."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
    Reactivate,
    Refuse,
    Republish,
    StartQuarantine,
    StartRetirement,
    Wait,
)
from rekeyd.core.decide import decide
from rekeyd.core.model import (
    AccessKey,
    AccessKeyId,
    AccountId,
    Asked,
    CreateIntent,
    Gate,
    HeldProof,
    Interval,
    IssueState,
    JournalFacts,
    KeyFacts,
    KeyStatus,
    LastUse,
    NeverUsed,
    Observed,
    Origin,
    Place,
    Principal,
    Proof,
    Publication,
    PublishNote,
    Retirement,
    RetireWhy,
    Rotation,
    RotationId,
    RotationKind,
    Selection,
    Used,
    UserId,
    UseUnknown,
    VaultAbsent,
    VaultDeleted,
    VaultDestroyed,
    VaultHeld,
    VaultHistory,
    VaultSeen,
    VaultUnreadable,
    VaultVersion,
    VaultWithoutPair,
)
from rekeyd.core.policy import Adopt, Attribution, Orphans, Policy, Repair, SpareKey, StillUsed, due_at
from rekeyd.core.reasons import Reason

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
SETTLE = 15 * SECOND
OLD, NEW, THIRD = AccessKeyId("AKIAOLD"), AccessKeyId("AKIANEW"), AccessKeyId("AKIATHIRD")
R1 = RotationId("r1")
USER = Principal(
    account_id=AccountId("111122223333"),
    user_name="ci",
    user_id=UserId("AIDACI"),
    path="/",
    arn="arn:aws:iam::111122223333:user/ci",
    tags={},
)
PLACE = Place(
    address="https://vault", namespace="", mount="secret", path="aws/1/ci", id_field="id", secret_field="secret"
)
POLICY = Policy(name="default", lead=HOUR)
DUE_AGE = NOW - due_at(POLICY, USER, NOW)  # negative: how long before NOW a key must be made to be due exactly now
DUE_AGE = -DUE_AGE
ASKED = Asked(by="user:ann", at=NOW)
EMERGENCY = replace(ASKED, emergency=True)
ROLLBACK = replace(ASKED, rollback=True)


def key(
    key_id: AccessKeyId,
    *,
    age: timedelta,
    status: KeyStatus = KeyStatus.ACTIVE,
    use: LastUse | None = NeverUsed(),  # noqa: B008 - immutable
) -> AccessKey:
    return AccessKey(id=key_id, status=status, created_at=NOW - age, last_use=use)


def inactive(key_id: AccessKeyId, *, age: timedelta, use: LastUse | None = NeverUsed()) -> AccessKey:  # noqa: B008
    return key(key_id, age=age, status=KeyStatus.INACTIVE, use=use)


def used(ago: timedelta) -> Used:
    return Used(at=NOW - ago, service="s3", region="eu-central-1")


def held(key_id: AccessKeyId, version: int = 5, note: PublishNote | None = None) -> VaultHeld:
    return VaultHeld(version=version, created_at=NOW - DAY, access_key_id=key_id, note=note)


def history(*ids: AccessKeyId | None, first: int = 1, unreadable: tuple[int, ...] = ()) -> VaultHistory:
    versions = tuple(
        VaultVersion(
            version=n,
            created_at=NOW - 100 * DAY + n * SECOND,
            readable=n not in unreadable,
            access_key_id=None if n in unreadable else key_id,
        )
        for n, key_id in enumerate(ids, first)
    )
    return VaultHistory(
        created_at=NOW - 100 * DAY,
        current_version=first + len(ids) - 1,
        oldest_version=first,
        versions=versions,
    )


def proof(key_id: AccessKeyId, result: Proof = Proof.ACCEPTED, *, version: int = 5, refusals: int = 2) -> HeldProof:
    return HeldProof(
        version=version,
        access_key_id=key_id,
        result=result,
        refusals=0 if result is Proof.ACCEPTED else refusals,
    )


def retiring(
    why: RetireWhy = RetireWhy.OVERLAP,
    *,
    started: timedelta = timedelta(0),
    deactivated: timedelta | None = None,
) -> KeyFacts:
    return KeyFacts(
        deactivated_by_us=deactivated is not None,
        retirement=Retirement(
            why=why,
            started_at=NOW - started,
            deactivated_at=None if deactivated is None else NOW - deactivated,
        ),
    )


def rotation(
    kind: RotationKind = RotationKind.NORMAL,
    state: IssueState = IssueState.PUBLISHED,
    *,
    old: AccessKeyId | None = OLD,
    new: AccessKeyId | None = NEW,
    before: tuple[AccessKeyId, ...] = (OLD,),
) -> Rotation:
    return Rotation(
        id=R1,
        kind=kind,
        opened_at=NOW - DAY,
        state=state,
        operation_id="op1",
        keys_before=frozenset(before),
        create_sent_at=NOW - DAY,
        old_key_id=old,
        new_key_id=new,
        cas=4,
    )


INTENT = CreateIntent(rotation_id=R1, operation_id="op1", sent_at=NOW - HOUR, keys_before=frozenset({OLD}))
CREATING = replace(rotation(state=IssueState.CREATING, new=None), create_sent_at=NOW - HOUR)
OURS = KeyFacts(made_by=R1, cas=4, made_at=NOW - HOUR)


def publication(key_id: AccessKeyId) -> Publication:
    return Publication(
        access_key_id=key_id, place=PLACE, version=5, version_created_at=NOW - DAY, published_at=NOW - DAY
    )


def facts(**changes: object) -> JournalFacts:
    return replace(JournalFacts(proven_version=5), **changes)  # type: ignore[arg-type]


def see(*keys: AccessKey, vault: VaultSeen, journal: JournalFacts | None = None, **changes: object) -> Observed:
    seen = Observed(
        principal=USER,
        keys=keys,
        vault=vault,
        place=PLACE,
        journal=facts() if journal is None else journal,
        settle_seconds=SETTLE.total_seconds(),
    )
    return replace(seen, **changes)  # type: ignore[arg-type]


VOIDED = KeyFacts(
    retirement=Retirement(why=RetireWhy.OVERLAP, started_at=NOW - 30 * DAY, deactivated_at=None, reactivated=True)
)
YOUNG = key(OLD, age=DAY)
AGED = key(OLD, age=DUE_AGE)
OVERLAPPING = (key(OLD, age=90 * DAY), key(NEW, age=DAY))
WINDOW = Attribution.WINDOW

CASES: dict[str, tuple[Observed, Policy, Action]] = {
    # --- one key ---
    "a held key waits until the very moment it is due": (
        see(key(OLD, age=DUE_AGE - SECOND), vault=held(OLD)),
        POLICY,
        Wait(until=NOW + SECOND, reason=Reason.NOT_DUE),
    ),
    "a held key is rotated at the moment it is due": (
        see(AGED, vault=held(OLD)),
        POLICY,
        OpenRotation(kind=RotationKind.NORMAL, reason=Reason.DUE, old_key_id=OLD),
    ),
    "a named young key is rotated": (
        see(YOUNG, vault=held(OLD), asked=ASKED),
        POLICY,
        OpenRotation(kind=RotationKind.NORMAL, reason=Reason.ASKED, old_key_id=OLD),
    ),
    "a due key waits for the next window": (
        see(AGED, vault=held(OLD), windows=(Interval(start=NOW + HOUR, end=NOW + 2 * HOUR),)),
        POLICY,
        Wait(until=NOW + HOUR, reason=Reason.OUTSIDE_WINDOW),
    ),
    "a window is open from its first moment": (
        see(AGED, vault=held(OLD), windows=(Interval(start=NOW, end=NOW + HOUR),)),
        POLICY,
        OpenRotation(kind=RotationKind.NORMAL, reason=Reason.DUE, old_key_id=OLD),
    ),
    "a window is closed at its end": (
        see(
            AGED,
            vault=held(OLD),
            windows=(Interval(start=NOW - HOUR, end=NOW), Interval(start=NOW + DAY, end=NOW + 2 * DAY)),
        ),
        POLICY,
        Wait(until=NOW + DAY, reason=Reason.OUTSIDE_WINDOW),
    ),
    "a named user is rotated outside windows": (
        see(AGED, vault=held(OLD), asked=ASKED, windows=(Interval(start=NOW + HOUR, end=NOW + 2 * HOUR),)),
        POLICY,
        OpenRotation(kind=RotationKind.NORMAL, reason=Reason.ASKED, old_key_id=OLD),
    ),
    "a freeze keeps a due key from being rotated": (
        see(AGED, vault=held(OLD), gate=Gate(reason=Reason.FROZEN, until=NOW + DAY)),
        POLICY,
        Refuse(reason=Reason.FROZEN, until=NOW + DAY),
    ),
    "a freeze binds a named rotation too": (
        see(AGED, vault=held(OLD), asked=ASKED, gate=Gate(reason=Reason.FROZEN, until=NOW + DAY)),
        POLICY,
        Refuse(reason=Reason.FROZEN, until=NOW + DAY),
    ),
    "an emergency is bound by neither freeze nor window": (
        see(
            AGED,
            vault=held(OLD),
            asked=EMERGENCY,
            gate=Gate(reason=Reason.FROZEN, until=NOW + DAY),
            windows=(Interval(start=NOW + HOUR, end=NOW + 2 * HOUR),),
        ),
        POLICY,
        OpenRotation(kind=RotationKind.EMERGENCY, reason=Reason.EMERGENCY, old_key_id=OLD),
    ),
    "an emergency is bound by the observe mode": (
        see(AGED, vault=held(OLD), asked=EMERGENCY, gate=Gate(reason=Reason.OBSERVE_MODE, until=None)),
        POLICY,
        Refuse(reason=Reason.OBSERVE_MODE),
    ),
    "a young key is not held up by a gate": (
        see(YOUNG, vault=held(OLD), gate=Gate(reason=Reason.BRAKED, until=NOW + DAY)),
        POLICY,
        Wait(until=due_at(POLICY, USER, NOW - DAY), reason=Reason.NOT_DUE),
    ),
    "a version that was never proven is proven once": (
        see(YOUNG, vault=held(OLD, 6)),
        POLICY,
        ProveHeld(reason=Reason.VERSION_CHANGED),
    ),
    "a restored key is not due again by itself": (
        see(AGED, vault=held(OLD), journal=facts(restored_key_id=OLD)),
        POLICY,
        Idle(reason=Reason.RESTORED_BY_ROLLBACK),
    ),
    "a restored key is rotated when asked": (
        see(AGED, vault=held(OLD), journal=facts(restored_key_id=OLD), asked=ASKED),
        POLICY,
        OpenRotation(kind=RotationKind.NORMAL, reason=Reason.ASKED, old_key_id=OLD),
    ),
    # --- nothing in Vault ---
    "an unmanaged user is only reported": (
        see(AGED, vault=VaultAbsent(0)),
        POLICY,
        Refuse(reason=Reason.UNMANAGED, key_id=OLD),
    ),
    "an unmanaged user is adopted when asked": (
        see(YOUNG, vault=VaultAbsent(0), asked=ASKED),
        POLICY,
        OpenRotation(kind=RotationKind.ADOPT, reason=Reason.ASKED, old_key_id=OLD),
    ),
    "an unmanaged user is adopted when due": (
        see(AGED, vault=VaultAbsent(0)),
        replace(POLICY, adopt=Adopt.WHEN_DUE),
        OpenRotation(kind=RotationKind.ADOPT, reason=Reason.ADOPT, old_key_id=OLD),
    ),
    "an unmanaged young user waits until due": (
        see(key(OLD, age=DUE_AGE - SECOND), vault=VaultAbsent(0)),
        replace(POLICY, adopt=Adopt.WHEN_DUE),
        Wait(until=NOW + SECOND, reason=Reason.NOT_DUE),
    ),
    "an unmanaged user is adopted at once": (
        see(YOUNG, vault=VaultAbsent(2)),
        replace(POLICY, adopt=Adopt.AT_ONCE),
        OpenRotation(kind=RotationKind.ADOPT, reason=Reason.ADOPT, old_key_id=OLD),
    ),
    "two keys and nothing in Vault is for a person": (
        see(*OVERLAPPING, vault=VaultAbsent(0)),
        replace(POLICY, adopt=Adopt.AT_ONCE),
        Refuse(reason=Reason.TWO_KEYS_UNMANAGED, key_id=OLD),
    ),
    "the one inactive key of two is retired before adoption": (
        see(key(OLD, age=9 * DAY, use=used(HOUR)), inactive(NEW, age=DAY), vault=VaultAbsent(0)),
        replace(POLICY, adopt=Adopt.AT_ONCE, spare_key=SpareKey.RETIRE_UNUSED),
        StartRetirement(key_id=NEW, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY),
    ),
    "the one silent key of two is retired before adoption": (
        see(key(OLD, age=200 * DAY, use=used(90 * DAY)), key(NEW, age=100 * DAY, use=used(HOUR)), vault=VaultAbsent(0)),
        replace(POLICY, adopt=Adopt.AT_ONCE, spare_key=SpareKey.RETIRE_UNUSED),
        StartRetirement(key_id=OLD, why=RetireWhy.SPARE, reason=Reason.SPARE_KEY),
    ),
    "a second short of silent is not silent": (
        see(
            key(OLD, age=200 * DAY, use=used(90 * DAY - SECOND)),
            key(NEW, age=100 * DAY, use=used(HOUR)),
            vault=VaultAbsent(0),
        ),
        replace(POLICY, adopt=Adopt.AT_ONCE, spare_key=SpareKey.RETIRE_UNUSED),
        Refuse(reason=Reason.TWO_KEYS_UNMANAGED, key_id=None),
    ),
    "an unknown use is not silence": (
        see(
            key(OLD, age=200 * DAY, use=UseUnknown("throttled")),
            key(NEW, age=100 * DAY, use=used(HOUR)),
            vault=VaultAbsent(0),
        ),
        replace(POLICY, adopt=Adopt.AT_ONCE, spare_key=SpareKey.RETIRE_UNUSED),
        Refuse(reason=Reason.TWO_KEYS_UNMANAGED, key_id=None),
    ),
    "two silent keys have no spare": (
        see(
            key(OLD, age=200 * DAY, use=used(91 * DAY)),
            key(NEW, age=199 * DAY, use=used(92 * DAY)),
            vault=VaultAbsent(0),
        ),
        replace(POLICY, adopt=Adopt.AT_ONCE, spare_key=SpareKey.RETIRE_UNUSED),
        Refuse(reason=Reason.TWO_KEYS_UNMANAGED, key_id=None),
    ),
    "a user without keys is left alone": (see(vault=VaultAbsent(0)), POLICY, Idle(reason=Reason.NO_KEYS)),
    "a user without keys gets a first one": (
        see(vault=VaultAbsent(0)),
        replace(POLICY, create=True),
        OpenRotation(kind=RotationKind.CREATE, reason=Reason.FIRST_KEY),
    ),
    "what we published is gone from Vault": (
        see(YOUNG, vault=VaultAbsent(0), journal=facts(publication=publication(OLD))),
        replace(POLICY, adopt=Adopt.AT_ONCE),
        Refuse(reason=Reason.VAULT_DELETED),
    ),
    # --- the held key is dead ---
    "a missing held key is first tried": (
        see(key(NEW, age=DAY), vault=held(OLD)),
        POLICY,
        ProveHeld(reason=Reason.PROOF_NEEDED),
    ),
    "a missing held key that AWS still honours is a lagging list": (
        see(key(NEW, age=DAY), vault=held(OLD), proof=proof(OLD)),
        POLICY,
        Wait(until=NOW + SETTLE, reason=Reason.SETTLING, key_id=OLD),
    ),
    "a dead held key is for a person by default": (
        see(vault=held(OLD), proof=proof(OLD, Proof.NOT_HONOURED), journal=facts(held_dead_since=NOW - DAY)),
        POLICY,
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD),
    ),
    "a dead held key is repaired if we published it and two looks agree": (
        see(
            vault=held(OLD),
            proof=proof(OLD, Proof.NOT_HONOURED),
            journal=facts(held_dead_since=NOW - SETTLE, publication=publication(OLD)),
        ),
        replace(POLICY, repair=Repair.ISSUE),
        OpenRotation(kind=RotationKind.REPAIR, reason=Reason.REPAIR, old_key_id=None),
    ),
    "looks less than settle apart are one look": (
        see(
            vault=held(OLD),
            proof=proof(OLD, Proof.NOT_HONOURED),
            journal=facts(held_dead_since=NOW - SETTLE + SECOND, publication=publication(OLD)),
        ),
        replace(POLICY, repair=Repair.ISSUE),
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD, until=NOW + SECOND),
    ),
    "a dead held key that we never published is not repaired by policy": (
        see(vault=held(OLD), proof=proof(OLD, Proof.NOT_HONOURED), journal=facts(held_dead_since=NOW - DAY)),
        replace(POLICY, repair=Repair.ISSUE),
        Refuse(reason=Reason.HELD_KEY_DEAD, key_id=OLD),
    ),
    "a person may repair it": (
        see(
            inactive(OLD, age=9 * DAY),
            vault=held(OLD),
            proof=proof(OLD, Proof.NOT_HONOURED),
            journal=facts(held_dead_since=NOW - DAY),
            asked=ASKED,
        ),
        POLICY,
        OpenRotation(kind=RotationKind.REPAIR, reason=Reason.REPAIR, old_key_id=OLD),
    ),
    "a wrong secret refused once is tried again": (
        see(
            YOUNG,
            vault=held(OLD),
            proof=proof(OLD, Proof.WRONG_SECRET, refusals=1),
            journal=facts(held_dead_since=NOW - DAY, publication=publication(OLD)),
        ),
        replace(POLICY, repair=Repair.ISSUE),
        ProveHeld(reason=Reason.PROOF_NEEDED),
    ),
    "an open repair issues its key": (
        see(
            vault=held(OLD),
            proof=proof(OLD, Proof.NOT_HONOURED),
            journal=facts(
                held_dead_since=NOW - DAY,
                publication=publication(OLD),
                rotation=rotation(RotationKind.REPAIR, IssueState.OPENED, old=None, new=None, before=()),
            ),
        ),
        replace(POLICY, repair=Repair.ISSUE),
        IssueKey(rotation_id=R1, reason=Reason.ROTATION_OPEN),
    ),
    "a held key that we hit ourselves is reactivated": (
        see(inactive(OLD, age=9 * DAY), vault=held(OLD), journal=facts(keys={OLD: KeyFacts(deactivated_by_us=True)})),
        POLICY,
        Reactivate(key_id=OLD, reason=Reason.DEACTIVATED_BY_US),
    ),
    "an Active held key that AWS refuses stops everything": (
        see(AGED, vault=held(OLD), proof=proof(OLD, Proof.NOT_HONOURED)),
        POLICY,
        Refuse(reason=Reason.HELD_KEY_NOT_HONOURED, key_id=OLD, until=NOW + SETTLE),
    ),
    "a proof that could not be had is no proof": (
        see(AGED, vault=held(OLD), proof=proof(OLD, Proof.UNAVAILABLE)),
        POLICY,
        Refuse(reason=Reason.PROOF_UNAVAILABLE, key_id=OLD, until=NOW + SETTLE),
    ),
    "another user's key in Vault": (
        see(YOUNG, vault=held(OLD), proof=proof(OLD, Proof.OTHER_PRINCIPAL)),
        POLICY,
        Refuse(reason=Reason.FOREIGN_KEY_IN_VAULT, key_id=OLD),
    ),
    # --- our unpublished key ---
    "a key that Vault serves already is proven and recorded": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            journal=facts(rotation=rotation(state=IssueState.PUBLISHING), keys={NEW: OURS}),
        ),
        POLICY,
        ProveHeld(reason=Reason.PUBLISHED_BUT_UNRECORDED, publishes=R1),
    ),
    "before an unpublished key goes the version is burned": (
        see(
            *OVERLAPPING,
            vault=held(OLD, 4),
            history=history(OLD, first=4),
            journal=facts(proven_version=4, rotation=rotation(state=IssueState.PUBLISHING), keys={NEW: OURS}),
        ),
        POLICY,
        Burn(rotation_id=R1, reason=Reason.SECRET_LOST),
    ),
    "a key that no version since its intent names has lost its secret": (
        see(
            *OVERLAPPING,
            vault=held(OLD),
            history=history(OLD, OLD, first=4),
            journal=facts(rotation=rotation(state=IssueState.CREATED), keys={NEW: OURS}),
        ),
        POLICY,
        Deactivate(key_id=NEW, reason=Reason.SECRET_LOST),
    ),
    "and inactive it is deleted without a quarantine": (
        see(
            key(OLD, age=90 * DAY),
            inactive(NEW, age=HOUR),
            vault=held(OLD),
            history=history(OLD, OLD, first=4),
            journal=facts(rotation=rotation(state=IssueState.CREATED), keys={NEW: OURS}),
        ),
        POLICY,
        Delete(key_id=NEW, reason=Reason.SECRET_LOST),
    ),
    "an unreadable version since the intent makes it retire slowly": (
        see(
            *OVERLAPPING,
            vault=held(OLD, 6),
            history=history(OLD, OLD, OLD, first=4, unreadable=(5,)),
            journal=facts(proven_version=6, rotation=rotation(state=IssueState.PUBLISHING), keys={NEW: OURS}),
        ),
        POLICY,
        StartRetirement(key_id=NEW, why=RetireWhy.SUPERSEDED, reason=Reason.PUBLICATION_UNCLEAR),
    ),
    "a version since the intent that names it makes it retire slowly": (
        see(
            *OVERLAPPING,
            vault=held(OLD, 6),
            history=history(OLD, NEW, OLD, first=4),
            journal=facts(proven_version=6, rotation=rotation(state=IssueState.PUBLISHING), keys={NEW: OURS}),
        ),
        POLICY,
        StartRetirement(key_id=NEW, why=RetireWhy.SUPERSEDED, reason=Reason.PUBLICATION_UNCLEAR),
    ),
    "without a readable history nothing is concluded": (
        see(
            *OVERLAPPING,
            vault=held(OLD),
            journal=facts(rotation=rotation(state=IssueState.PUBLISHING), keys={NEW: OURS}),
        ),
        POLICY,
        Refuse(reason=Reason.VAULT_UNREADABLE, key_id=NEW),
    ),
    "the issue ends when its key is gone": (
        see(AGED, vault=held(OLD), journal=facts(rotation=rotation(state=IssueState.CREATED))),
        POLICY,
        Close(rotation_id=R1, reason=Reason.NEW_KEY_GONE, completed=False),
    ),
    "an opened rotation issues its key": (
        see(AGED, vault=held(OLD), journal=facts(rotation=rotation(state=IssueState.OPENED, new=None))),
        POLICY,
        IssueKey(rotation_id=R1, reason=Reason.ROTATION_OPEN),
    ),
    # --- a lost answer to CreateAccessKey ---
    "no key appeared, so the issue is closed": (
        see(AGED, vault=held(OLD), journal=facts(rotation=CREATING, unresolved=(INTENT,))),
        POLICY,
        Close(rotation_id=R1, reason=Reason.NOT_CREATED, completed=False),
    ),
    "CloudTrail proves the key ours": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
            origins={NEW: Origin.OURS},
            claims={NEW: "op1"},
        ),
        POLICY,
        Claim(rotation_id=R1, key_id=NEW, reason=Reason.ORPHAN_PROVEN),
    ),
    "CloudTrail names somebody else": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
            origins={NEW: Origin.FOREIGN},
        ),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "CloudTrail's event is waited for": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
            origins={NEW: Origin.NO_EVENT},
        ),
        POLICY,
        Wait(until=NOW + timedelta(minutes=5), reason=Reason.AWAITING_CLOUDTRAIL, key_id=NEW),
    ),
    "and given up after orphans.wait, but asked again": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
            origins={NEW: Origin.NO_EVENT},
        ),
        replace(POLICY, orphans=Orphans(wait=HOUR)),
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW, until=NOW + timedelta(minutes=5)),
    ),
    "without permission for CloudTrail it is a stray": (
        see(AGED, key(NEW, age=HOUR), vault=held(OLD), journal=facts(rotation=CREATING, unresolved=(INTENT,))),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "attribution never: a stray": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
            origins={NEW: Origin.OURS},
            claims={NEW: "op1"},
        ),
        replace(POLICY, orphans=Orphans(attribution=Attribution.NEVER)),
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "window: a key made in our seconds is watched": (
        see(AGED, key(NEW, age=HOUR), vault=held(OLD), journal=facts(rotation=CREATING, unresolved=(INTENT,))),
        replace(POLICY, orphans=Orphans(attribution=WINDOW)),
        Wait(until=NOW - HOUR + DAY, reason=Reason.ORPHAN_WATCHED, key_id=NEW),
    ),
    "window: and retires when it stayed unused": (
        see(AGED, key(NEW, age=HOUR), vault=held(OLD), journal=facts(rotation=CREATING, unresolved=(INTENT,))),
        replace(POLICY, orphans=Orphans(attribution=WINDOW, wait=HOUR)),
        StartRetirement(key_id=NEW, why=RetireWhy.ORPHAN, reason=Reason.ORPHAN_PRESUMED),
    ),
    "window: a used key has a user": (
        see(
            AGED,
            key(NEW, age=HOUR, use=used(SECOND)),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
        ),
        replace(POLICY, orphans=Orphans(attribution=WINDOW, wait=HOUR)),
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "window: an unknown use stops it": (
        see(
            AGED,
            key(NEW, age=HOUR, use=UseUnknown("denied")),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
        ),
        replace(POLICY, orphans=Orphans(attribution=WINDOW, wait=HOUR)),
        Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=NEW),
    ),
    "window: the last second of the window counts": (
        see(
            AGED,
            key(NEW, age=HOUR - 12 * SECOND),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
        ),
        replace(POLICY, orphans=Orphans(attribution=WINDOW)),
        Wait(until=NOW - HOUR + 12 * SECOND + DAY, reason=Reason.ORPHAN_WATCHED, key_id=NEW),
    ),
    "window: a second later it is a stranger's": (
        see(
            AGED,
            key(NEW, age=HOUR - 13 * SECOND),
            vault=held(OLD),
            journal=facts(rotation=CREATING, unresolved=(INTENT,)),
        ),
        replace(POLICY, orphans=Orphans(attribution=WINDOW)),
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "a late create of a closed rotation is explained too": (
        see(
            AGED,
            key(NEW, age=HOUR),
            vault=held(OLD),
            journal=facts(unresolved=(INTENT,)),
            origins={NEW: Origin.OURS},
            claims={NEW: "op1"},
        ),
        POLICY,
        Claim(rotation_id=R1, key_id=NEW, reason=Reason.ORPHAN_PROVEN),
    ),
    "a second key nobody explains is a stray": (
        see(AGED, key(NEW, age=DAY), vault=held(OLD)),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=NEW),
    ),
    "a stray key that a person named is retired": (
        see(AGED, key(NEW, age=DAY), vault=held(OLD), asked=replace(ASKED, replace=NEW)),
        POLICY,
        StartRetirement(key_id=NEW, why=RetireWhy.REPLACED, reason=Reason.REPLACE_ASKED),
    ),
    # --- the way out ---
    "consumers get their whole overlap": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=7 * DAY - SECOND)}),
        ),
        POLICY,
        Wait(until=NOW + SECOND, reason=Reason.IN_OVERLAP, key_id=OLD),
    ),
    "a proof is needed before the deactivation": (
        see(*OVERLAPPING, vault=held(NEW), journal=facts(rotation=rotation(), keys={OLD: retiring(started=7 * DAY)})),
        POLICY,
        ProveHeld(reason=Reason.PROOF_NEEDED),
    ),
    "the overlap ended and the old key is silent": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=7 * DAY)}),
        ),
        POLICY,
        Deactivate(key_id=OLD, reason=Reason.OVERLAP_ENDED),
    ),
    "an old key used a moment ago is held": (
        see(
            key(OLD, age=90 * DAY, use=used(DAY - SECOND)),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=7 * DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.STILL_USED, key_id=OLD, until=NOW + SECOND),
    ),
    "an old key silent for exactly unused_for goes": (
        see(
            key(OLD, age=90 * DAY, use=used(DAY)),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=7 * DAY)}),
        ),
        POLICY,
        Deactivate(key_id=OLD, reason=Reason.OVERLAP_ENDED),
    ),
    "an unknown use holds the old key": (
        see(
            key(OLD, age=90 * DAY, use=UseUnknown("denied")),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=7 * DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=OLD),
    ),
    "a used key is deactivated after max_hold where the policy says so": (
        see(
            key(OLD, age=90 * DAY, use=used(HOUR)),
            key(NEW, age=40 * DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=37 * DAY)}),
        ),
        replace(POLICY, still_used=StillUsed.DEACTIVATE),
        Deactivate(key_id=OLD, reason=Reason.MAX_HOLD_ENDED),
    ),
    "and held until then": (
        see(
            key(OLD, age=90 * DAY, use=used(HOUR)),
            key(NEW, age=40 * DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=37 * DAY - SECOND)}),
        ),
        replace(POLICY, still_used=StillUsed.DEACTIVATE),
        Refuse(reason=Reason.STILL_USED, key_id=OLD, until=NOW + SECOND),
    ),
    "by default a used key is held for ever": (
        see(
            key(OLD, age=90 * DAY, use=used(HOUR)),
            key(NEW, age=40 * DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=500 * DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.STILL_USED, key_id=OLD, until=NOW + 23 * HOUR),
    ),
    "somebody else deactivated it: its quarantine counts from now": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring()}),
        ),
        POLICY,
        StartQuarantine(key_id=OLD, reason=Reason.SEEN_INACTIVE),
    ),
    "the quarantine is kept to its last second": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=7 * DAY - SECOND)}),
        ),
        POLICY,
        Wait(until=NOW + SECOND, reason=Reason.IN_QUARANTINE, key_id=OLD),
    ),
    "the quarantine ended": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=7 * DAY)}),
        ),
        POLICY,
        Delete(key_id=OLD, reason=Reason.QUARANTINE_ENDED),
    ),
    "a deletion needs a proof too": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=7 * DAY)}),
        ),
        POLICY,
        ProveHeld(reason=Reason.PROOF_NEEDED),
    ),
    "a use after the deactivation stops the deletion": (
        see(
            inactive(OLD, age=90 * DAY, use=used(DAY)),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=7 * DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.USED_IN_QUARANTINE, key_id=OLD),
    ),
    "a use while the deactivation spread is none": (
        see(
            inactive(OLD, age=90 * DAY, use=used(7 * DAY - SETTLE)),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=7 * DAY)}),
        ),
        POLICY,
        Delete(key_id=OLD, reason=Reason.QUARANTINE_ENDED),
    ),
    "an unknown use stops the deletion": (
        see(
            inactive(OLD, age=90 * DAY, use=UseUnknown("throttled")),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=7 * DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.LAST_USE_UNKNOWN, key_id=OLD),
    ),
    "a quarantined key that somebody reactivated is respected": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.REACTIVATED, key_id=OLD),
    ),
    "a key whose quarantine was voided is left alone": (
        see(*OVERLAPPING, vault=held(NEW), proof=proof(NEW), journal=facts(rotation=rotation(), keys={OLD: VOIDED})),
        POLICY,
        Refuse(reason=Reason.REACTIVATED, key_id=OLD),
    ),
    "a key whose quarantine was voided begins a new one when a person deactivates it again": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(), keys={OLD: VOIDED}),
        ),
        POLICY,
        StartQuarantine(key_id=OLD, reason=Reason.SEEN_INACTIVE),
    ),
    "a lost key of a closed issue is claimed although a later rotation saw it before its own": (
        see(
            key(THIRD, age=HOUR),
            key(NEW, age=HOUR / 2),
            vault=held(NEW),
            origins={THIRD: Origin.OURS},
            claims={THIRD: "op0"},
            journal=facts(
                rotation=replace(rotation(RotationKind.REPAIR, old=None, before=(THIRD,)), id=RotationId("r2")),
                unresolved=(replace(INTENT, operation_id="op0", keys_before=frozenset()),),
            ),
        ),
        POLICY,
        Claim(rotation_id=R1, key_id=THIRD, reason=Reason.ORPHAN_PROVEN),
    ),
    "the rotation is complete when the old key is gone": (
        see(key(NEW, age=20 * DAY), vault=held(NEW), journal=facts(rotation=rotation())),
        POLICY,
        Close(rotation_id=R1, reason=Reason.ROTATION_COMPLETE, completed=True),
    ),
    "a key of ours that somebody took out of Vault retires": (
        see(*OVERLAPPING, vault=held(OLD), journal=facts(keys={NEW: replace(OURS, published=True)})),
        POLICY,
        StartRetirement(key_id=NEW, why=RetireWhy.SUPERSEDED, reason=Reason.SUPERSEDED),
    ),
    # --- without a journal ---
    "an older Vault version shows what was replaced": (
        see(*OVERLAPPING, vault=held(NEW), history=history(OLD, NEW, first=4)),
        POLICY,
        StartRetirement(key_id=OLD, why=RetireWhy.OVERLAP, reason=Reason.FOUND_IN_VAULT),
    ),
    "the publish note shows what was replaced": (
        see(
            *OVERLAPPING,
            vault=held(
                NEW,
                note=PublishNote(
                    version=5,
                    user_id=USER.user_id,
                    access_key_id=NEW,
                    old_access_key_id=OLD,
                    rotation_id=R1,
                    published_at=NOW - DAY,
                ),
            ),
            history=history(NEW, first=5),
        ),
        POLICY,
        StartRetirement(key_id=OLD, why=RetireWhy.OVERLAP, reason=Reason.FOUND_IN_VAULT),
    ),
    "a note about another user shows nothing": (
        see(
            *OVERLAPPING,
            vault=held(
                NEW,
                note=PublishNote(
                    version=5,
                    user_id=UserId("AIDAOTHER"),
                    access_key_id=NEW,
                    old_access_key_id=OLD,
                    rotation_id=R1,
                    published_at=NOW - DAY,
                ),
            ),
            history=history(NEW, first=5),
        ),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=OLD),
    ),
    "an older key that no version names is a stray": (
        see(*OVERLAPPING, vault=held(NEW), history=history(None, NEW, first=4)),
        POLICY,
        Refuse(reason=Reason.STRAY_KEY, key_id=OLD),
    ),
    # --- emergency ---
    "an emergency gives no overlap": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            proof=proof(NEW),
            journal=facts(rotation=rotation(RotationKind.EMERGENCY), keys={OLD: retiring()}),
        ),
        POLICY,
        Deactivate(key_id=OLD, reason=Reason.EMERGENCY),
    ),
    "an emergency keeps its own old key's quarantine": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            journal=facts(rotation=rotation(RotationKind.EMERGENCY), keys={OLD: retiring(deactivated=DAY)}),
        ),
        POLICY,
        Wait(until=NOW + 6 * DAY, reason=Reason.IN_QUARANTINE, key_id=OLD),
    ),
    "an emergency ends another key's overlap early": (
        see(
            key(OLD, age=90 * DAY, use=used(SECOND)),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            asked=EMERGENCY,
            journal=facts(rotation=rotation(), keys={OLD: retiring()}),
        ),
        POLICY,
        Deactivate(key_id=OLD, reason=Reason.ENDED_EARLY),
    ),
    "an emergency ends another key's quarantine early": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            proof=proof(NEW),
            asked=EMERGENCY,
            journal=facts(rotation=rotation(), keys={OLD: retiring(deactivated=HOUR)}),
        ),
        POLICY,
        Delete(key_id=OLD, reason=Reason.ENDED_EARLY),
    ),
    # --- rollback ---
    "a rollback closes the rotation it undoes": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            history=history(OLD, NEW, first=4),
            asked=ROLLBACK,
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=HOUR)}),
        ),
        POLICY,
        Close(rotation_id=R1, reason=Reason.ROLLBACK, completed=False),
    ),
    "a rollback is a rotation back to the old key": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            history=history(OLD, NEW, first=4),
            asked=ROLLBACK,
            journal=facts(keys={OLD: retiring(started=HOUR)}),
        ),
        POLICY,
        OpenRotation(kind=RotationKind.ROLLBACK, reason=Reason.ROLLBACK, old_key_id=NEW, target=OLD),
    ),
    "without the old secret there is no way back": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            history=history(NEW, first=5),
            asked=ROLLBACK,
            journal=facts(keys={OLD: retiring(started=HOUR)}),
        ),
        POLICY,
        Refuse(reason=Reason.ROLLBACK_IMPOSSIBLE),
    ),
    "an open rollback reactivates its target": (
        see(
            inactive(OLD, age=90 * DAY),
            key(NEW, age=DAY),
            vault=held(NEW),
            history=history(OLD, NEW, first=4),
            journal=facts(
                rotation=rotation(RotationKind.ROLLBACK, IssueState.OPENED, old=NEW, new=OLD),
                keys={OLD: retiring(deactivated=HOUR)},
            ),
        ),
        POLICY,
        Reactivate(key_id=OLD, reason=Reason.ROLLBACK),
    ),
    "an open rollback publishes its target's pair again": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            history=history(OLD, NEW, first=4),
            journal=facts(
                rotation=rotation(RotationKind.ROLLBACK, IssueState.OPENED, old=NEW, new=OLD),
                keys={OLD: retiring(started=HOUR)},
            ),
        ),
        POLICY,
        Republish(rotation_id=R1, key_id=OLD, version=4, reason=Reason.ROLLBACK),
    ),
    "a rollback whose target Vault serves is recorded": (
        see(
            *OVERLAPPING,
            vault=held(OLD, 6),
            history=history(OLD, NEW, OLD, first=4),
            journal=facts(rotation=rotation(RotationKind.ROLLBACK, IssueState.PUBLISHING, old=NEW, new=OLD)),
        ),
        POLICY,
        ProveHeld(reason=Reason.PUBLISHED_BUT_UNRECORDED, publishes=R1),
    ),
    "a rollback without target ends": (
        see(
            key(NEW, age=DAY),
            vault=held(NEW),
            history=history(OLD, NEW, first=4),
            journal=facts(rotation=rotation(RotationKind.ROLLBACK, IssueState.OPENED, old=NEW, new=OLD)),
        ),
        POLICY,
        Close(rotation_id=R1, reason=Reason.ROLLBACK_TARGET_GONE, completed=False),
    ),
    # --- refusals that come first ---
    "three keys": (
        see(YOUNG, key(NEW, age=HOUR), key(THIRD, age=SECOND), vault=held(OLD)),
        POLICY,
        Refuse(reason=Reason.MORE_THAN_TWO_KEYS),
    ),
    "two keys of one second": (
        see(YOUNG, key(NEW, age=DAY), vault=held(OLD)),
        POLICY,
        Refuse(reason=Reason.SAME_SECOND_KEYS),
    ),
    "a status nobody documents": (
        see(key(OLD, age=DAY, status=KeyStatus.EXPIRED), vault=held(OLD)),
        POLICY,
        Refuse(reason=Reason.KEY_STATUS_UNKNOWN, key_id=OLD),
    ),
    "Vault unreadable": (see(AGED, vault=VaultUnreadable("sealed")), POLICY, Refuse(reason=Reason.VAULT_UNREADABLE)),
    "Vault soft-deleted": (see(AGED, vault=VaultDeleted(3)), POLICY, Refuse(reason=Reason.VAULT_DELETED)),
    "Vault destroyed": (see(AGED, vault=VaultDestroyed(3)), POLICY, Refuse(reason=Reason.VAULT_DESTROYED)),
    "Vault without a pair": (
        see(AGED, vault=VaultWithoutPair(3, ("password",))),
        POLICY,
        Refuse(reason=Reason.VAULT_WITHOUT_PAIR),
    ),
    "a structural problem comes before everything": (
        see(AGED, vault=held(OLD), problems=(Reason.USER_RECREATED, Reason.VAULT_MOVED), asked=EMERGENCY),
        POLICY,
        Refuse(reason=Reason.USER_RECREATED),
    ),
    "nothing is concluded before our own change settled": (
        see(AGED, vault=held(OLD), quiet_until=NOW + SECOND),
        POLICY,
        Wait(until=NOW + SECOND, reason=Reason.SETTLING),
    ),
    "and concluded at that moment": (
        see(AGED, vault=held(OLD), quiet_until=NOW),
        POLICY,
        OpenRotation(kind=RotationKind.NORMAL, reason=Reason.DUE, old_key_id=OLD),
    ),
    # --- out of policy ---
    "a user that left its policy in mid-rotation stays as it is": (
        see(
            *OVERLAPPING,
            vault=held(NEW),
            selection=Selection.LEFT,
            journal=facts(rotation=rotation(), keys={OLD: retiring(started=99 * DAY)}),
        ),
        POLICY,
        Refuse(reason=Reason.LEFT_POLICY),
    ),
    "but its unpublished key is removed": (
        see(
            *OVERLAPPING,
            vault=held(OLD),
            history=history(OLD, OLD, first=4),
            selection=Selection.LEFT,
            journal=facts(rotation=rotation(state=IssueState.CREATED), keys={NEW: OURS}),
        ),
        POLICY,
        Deactivate(key_id=NEW, reason=Reason.SECRET_LOST),
    ),
    "a rotation that never began is closed": (
        see(
            AGED,
            vault=held(OLD),
            selection=Selection.LEFT,
            journal=facts(rotation=rotation(state=IssueState.OPENED, new=None)),
        ),
        POLICY,
        Close(rotation_id=R1, reason=Reason.LEFT_UNPUBLISHED, completed=False),
    ),
    "a user of no policy is nobody's business": (
        see(AGED, vault=held(OLD), selection=Selection.LEFT),
        POLICY,
        Idle(reason=Reason.LEFT_POLICY),
    ),
    "with unreadable tags nothing is done at all": (
        see(
            *OVERLAPPING,
            vault=held(OLD),
            history=history(OLD, OLD, first=4),
            selection=Selection.UNKNOWN,
            journal=facts(rotation=rotation(state=IssueState.CREATED), keys={NEW: OURS}),
        ),
        POLICY,
        Refuse(reason=Reason.POLICY_UNKNOWN),
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case)
def test_the_decision(case: str) -> None:
    seen, policy, expected = CASES[case]
    assert decide(seen, policy, NOW) == expected
