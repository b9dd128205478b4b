"""P2 to P5 as properties of `decide`: no observation, however odd, makes it break one.

The observations start from the cases of the decision table and are then bent: keys, dates, last uses, Vault's
answer, its history, the journal's facts, the proof, the request and the policy are replaced, several at a time,
by values just beside a bound. What comes out must be permitted by what was seen, whatever the reason says.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

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
    Rest,
    StartQuarantine,
    StartRetirement,
    Step,
    Wait,
)
from rekeyd.core.decide import decide
from rekeyd.core.model import (
    AccessKey,
    AccessKeyId,
    Gate,
    IssueState,
    KeyFacts,
    KeyStatus,
    NeverUsed,
    Observed,
    Origin,
    Proof,
    Retirement,
    RetireWhy,
    RotationKind,
    Selection,
    Used,
    UseUnknown,
    VaultAbsent,
    VaultDeleted,
    VaultDestroyed,
    VaultHeld,
    VaultHistory,
    VaultUnreadable,
    VaultVersion,
    VaultWithoutPair,
)
from rekeyd.core.policy import Adopt, Attribution, Orphans, Policy, Repair, SpareKey, StillUsed
from rekeyd.core.reasons import Reason
from tests.unit.test_decide import (
    ASKED,
    CASES,
    CREATING,
    DAY,
    EMERGENCY,
    HOUR,
    INTENT,
    NEW,
    NOW,
    OLD,
    POLICY,
    R1,
    ROLLBACK,
    SECOND,
    SETTLE,
    THIRD,
    facts,
    held,
    history,
    proof,
    publication,
    rotation,
    used,
)
from tests.unit.test_decide_bounds import CASES as CORNERS

Case = tuple[Observed, Policy | None]
Start = tuple[Observed, Policy | None, Action]
Draw = Callable[[st.SearchStrategy[object]], object]

STARTS: dict[str, Start] = {**CASES, **CORNERS}
NEAR_THE_END = {
    sentence: case
    for sentence, case in STARTS.items()
    if isinstance(case[2], Delete | Deactivate) or case[2].reason in (Reason.IN_QUARANTINE, Reason.PROOF_NEEDED)
}
"""A key is on its way out here, so that one bend is enough for a wrong step."""
IDS = (OLD, NEW, THIRD)
# Just before, at and just after what the policies of these cases count with, and far beyond.
AGES = [
    base + shift
    for base in (timedelta(0), SETTLE, 12 * SECOND, HOUR, DAY, 7 * DAY, 30 * DAY, 37 * DAY, 90 * DAY, 400 * DAY)
    for shift in (-SECOND, timedelta(0), SECOND)
]
ages = st.sampled_from(AGES)
ids = st.sampled_from(IDS)
uses = st.one_of(st.none(), st.just(NeverUsed()), st.just(UseUnknown("denied")), st.builds(used, ages))
statuses = st.sampled_from([KeyStatus.ACTIVE, KeyStatus.INACTIVE, KeyStatus.INACTIVE, KeyStatus.EXPIRED])
keys = st.builds(
    lambda key_id, status, age, use: AccessKey(id=key_id, status=status, created_at=NOW - age, last_use=use),
    ids,
    statuses,
    ages,
    uses,
)
versions = st.integers(0, 8)
vaults = st.one_of(
    st.builds(held, ids, versions),
    st.builds(VaultAbsent, versions),
    st.sampled_from([VaultDeleted(5), VaultDestroyed(5), VaultWithoutPair(5, ("x",)), VaultUnreadable("sealed")]),
)
histories = st.one_of(
    st.none(),
    st.builds(
        lambda named, first, unreadable: history(*named, first=first, unreadable=unreadable),
        st.lists(st.one_of(st.none(), ids), min_size=1, max_size=5),
        st.integers(1, 5),
        st.lists(st.integers(1, 8), max_size=2).map(tuple),
    ),
)
retirements = st.builds(
    lambda why, started, deactivated, reactivated: Retirement(
        why=why,
        started_at=NOW - started,
        deactivated_at=None if deactivated is None else NOW - deactivated,
        reactivated=reactivated,
    ),
    st.sampled_from(RetireWhy),
    ages,
    st.one_of(st.none(), ages),
    st.sampled_from([False, False, True]),
)
key_facts = st.builds(
    KeyFacts,
    made_by=st.sampled_from([None, R1]),
    cas=st.one_of(st.none(), versions),
    made_at=st.one_of(st.none(), ages.map(lambda age: NOW - age)),
    published=st.booleans(),
    deactivated_by_us=st.booleans(),
    retirement=st.one_of(st.none(), retirements),
)
rotations = st.one_of(
    st.none(),
    st.just(CREATING),
    st.builds(
        rotation,
        st.sampled_from(RotationKind),
        st.sampled_from(IssueState),
        old=st.one_of(st.none(), ids),
        new=st.one_of(st.none(), ids),
    ),
)
proofs = st.one_of(
    st.none(), st.builds(proof, ids, st.sampled_from(Proof), version=versions, refusals=st.integers(0, 3))
)
requests = st.one_of(
    st.sampled_from([None, ASKED, EMERGENCY, ROLLBACK]), ids.map(lambda key_id: replace(ASKED, replace=key_id))
)
gates = st.sampled_from([Gate(reason=reason, until=None) for reason in (Reason.FROZEN, Reason.OBSERVE_MODE)])
orphan_rules = st.builds(Orphans, attribution=st.sampled_from(Attribution), wait=st.sampled_from([HOUR, DAY]))
POLICY_FIELDS: dict[str, st.SearchStrategy[object]] = {
    "adopt": st.sampled_from(Adopt),
    "create": st.booleans(),
    "repair": st.sampled_from(Repair),
    "spare_key": st.sampled_from(SpareKey),
    "still_used": st.sampled_from(StillUsed),
    "orphans": orphan_rules,
}
JOURNAL_FIELDS: dict[str, st.SearchStrategy[object]] = {
    "rotation": rotations,
    "keys": st.dictionaries(ids, key_facts, max_size=2),
    "unresolved": st.sampled_from([(), (INTENT,)]),
    "publication": st.one_of(st.none(), st.builds(publication, ids)),
    "proven_version": st.one_of(st.none(), versions),
    "held_dead_since": st.one_of(st.none(), ages.map(lambda age: NOW - age)),
}
SEEN_FIELDS: dict[str, st.SearchStrategy[object]] = {
    "keys": st.lists(keys, max_size=3, unique_by=lambda key: key.id).map(tuple),
    "vault": vaults,
    "history": histories,
    "proof": proofs,
    "asked": requests,
    "selection": st.sampled_from(Selection),
    "origins": st.dictionaries(ids, st.sampled_from(Origin), max_size=2),
    "claims": st.dictionaries(ids, st.sampled_from(["op1", "op2"]), max_size=2),
    "gate": st.one_of(st.none(), gates),
    "problems": st.sampled_from([(), (), (Reason.PATH_COLLISION,), (Reason.OWN_IDENTITY,)]),
    "quiet_until": st.sampled_from([None, None, NOW, NOW + SECOND]),
}


@st.composite
def observations(draw: Draw, starts: Mapping[str, Start] = STARTS, most: int = 5) -> Case:
    seen, policy, _ = starts[str(draw(st.sampled_from(sorted(starts))))]
    policy = POLICY if policy is None else policy
    bends = draw(st.lists(st.sampled_from(BENDS), max_size=most))
    for bend in bends:  # type: ignore[attr-defined]
        seen, policy = bend(draw, seen, policy)
    return (seen, None) if draw(st.integers(0, 20)) == 0 else (seen, policy)


def _bend_seen(draw: Draw, seen: Observed, policy: Policy) -> tuple[Observed, Policy]:
    name = str(draw(st.sampled_from(sorted(SEEN_FIELDS))))
    return replace(seen, **{name: draw(SEEN_FIELDS[name])}), policy  # type: ignore[arg-type]


def _bend_journal(draw: Draw, seen: Observed, policy: Policy) -> tuple[Observed, Policy]:
    name = str(draw(st.sampled_from(sorted(JOURNAL_FIELDS))))
    return replace(seen, journal=replace(seen.journal, **{name: draw(JOURNAL_FIELDS[name])})), policy  # type: ignore[arg-type]


def _bend_policy(draw: Draw, seen: Observed, policy: Policy) -> tuple[Observed, Policy]:
    name = str(draw(st.sampled_from(sorted(POLICY_FIELDS))))
    return seen, replace(policy, **{name: draw(POLICY_FIELDS[name])})  # type: ignore[arg-type]


def _bend_key(draw: Draw, seen: Observed, policy: Policy) -> tuple[Observed, Policy]:
    if not seen.keys:
        return seen, policy
    bent = list(seen.keys)
    at = draw(st.integers(0, len(bent) - 1))
    changes: dict[str, object] = {}
    if draw(st.booleans()):
        changes["status"] = draw(statuses)
    if draw(st.booleans()):
        changes["last_use"] = draw(uses)
    if draw(st.booleans()):
        changes["created_at"] = NOW - draw(ages)  # type: ignore[operator]
    bent[at] = replace(bent[at], **changes)  # type: ignore[call-overload]
    return replace(seen, keys=tuple(bent)), policy


def _bend_clock(draw: Draw, seen: Observed, policy: Policy) -> tuple[Observed, Policy]:
    """Only the clocks of the keys that retire."""
    bent = {
        key_id: fact
        if fact.retirement is None
        else replace(
            fact,
            retirement=replace(
                fact.retirement,
                started_at=NOW - draw(ages),  # type: ignore[operator]
                deactivated_at=draw(st.one_of(st.none(), ages.map(lambda age: NOW - age))),  # type: ignore[arg-type]
            ),
        )
        for key_id, fact in seen.journal.keys.items()
    }
    return replace(seen, journal=replace(seen.journal, keys=bent)), policy


def _bend_history(draw: Draw, seen: Observed, policy: Policy) -> tuple[Observed, Policy]:
    """A server that lags does not show the last versions yet; one that trims not the first ones any more."""
    if seen.history is None or len(seen.history.versions) < 2:
        return seen, policy
    kept = seen.history.versions[:-1] if draw(st.booleans()) else seen.history.versions[1:]
    shown = replace(seen.history, versions=kept, current_version=kept[-1].version, oldest_version=kept[0].version)
    return replace(seen, history=shown), policy


BENDS = [_bend_seen, _bend_journal, _bend_policy, _bend_key, _bend_key, _bend_clock, _bend_history]
# `make test` bends some hundreds; PROMISE_EXAMPLES=20000 searches for an hour.
EXAMPLES = int(os.environ.get("PROMISE_EXAMPLES", "300"))
MANY = settings(max_examples=EXAMPLES, deadline=None)
FEW = settings(max_examples=EXAMPLES // 3, deadline=None)


# --- what an action may rest on ---------------------------------------------------------------------------------------


def proven_now(seen: Observed) -> bool:
    """The pair that Vault serves authenticated in this pass, and IAM lists its key as Active."""
    return (
        seen.proof is not None
        and seen.proof.result is Proof.ACCEPTED
        and seen.held is not None
        and seen.held.status is KeyStatus.ACTIVE
    )


def person_said_so(fact: KeyFacts) -> bool:
    return fact.retirement is not None and fact.retirement.why in (
        RetireWhy.REPLACED,
        RetireWhy.SPARE,
        RetireWhy.ORPHAN,
    )


def never_published(seen: Observed, key_id: AccessKeyId, fact: KeyFacts) -> bool:
    """Ours, and every version since its intent is readable and names another key, or none."""
    if fact.made_by is None or fact.published or fact.cas is None or seen.history is None:
        return False
    since = [v for v in seen.history.versions if v.version > fact.cas]
    served = seen.vault_version or 0
    complete = {v.version for v in since} >= set(range(fact.cas + 1, served + 1)) and served > fact.cas
    return complete and all(v.readable and v.access_key_id != key_id for v in since)


def use_known(key: AccessKey) -> bool:
    return isinstance(key.last_use, Used | NeverUsed)


def destructive(action: Action) -> bool:
    return isinstance(action, Deactivate | Delete)


def touched(action: Action) -> AccessKeyId | None:
    """The key that the action changes, or sends on its way out."""
    if isinstance(action, Deactivate | Delete | Reactivate | StartRetirement | StartQuarantine | Claim | Republish):
        return action.key_id
    return None


# --- P2 ---------------------------------------------------------------------------------------------------------------


@given(observations())
@MANY
def test_p2_the_held_key_is_never_deactivated_deleted_or_sent_on_its_way_out(case: Case) -> None:
    seen, policy = case
    action = decide(seen, policy, NOW)
    if isinstance(action, Deactivate | Delete | StartRetirement | StartQuarantine | Claim):
        assert action.key_id != seen.held_id
        assert seen.find(action.key_id) is not None


# --- P3 ---------------------------------------------------------------------------------------------------------------


@given(observations(NEAR_THE_END, 3))
@MANY
def test_p3_only_dead_keys_are_deleted(case: Case) -> None:
    seen, policy = case
    action = decide(seen, policy, NOW)
    if not isinstance(action, Delete):
        return
    key, fact = seen.find(action.key_id), seen.journal.key(action.key_id)
    assert key is not None
    assert key.status is KeyStatus.INACTIVE
    if action.reason is Reason.SECRET_LOST:
        assert never_published(seen, key.id, fact)
        return
    assert policy is not None, "a clock ran out for a user of no policy"
    assert fact.retirement is not None
    assert fact.retirement.deactivated_at is not None
    quarantine = policy.orphans.quarantine if fact.retirement.why is RetireWhy.ORPHAN else policy.quarantine
    waived = seen.asked is not None and seen.asked.emergency
    assert waived or fact.retirement.deactivated_at + quarantine <= NOW
    assert use_known(key)
    if isinstance(key.last_use, Used):
        assert key.last_use.at <= fact.retirement.deactivated_at + SETTLE
    assert proven_now(seen) or (isinstance(seen.vault, VaultAbsent) and person_said_so(fact))


@given(observations(NEAR_THE_END, 3))
@MANY
def test_p3_a_key_is_deactivated_only_when_consumers_are_known_to_be_served(case: Case) -> None:
    seen, policy = case
    action = decide(seen, policy, NOW)
    if not isinstance(action, Deactivate):
        return
    key, fact = seen.find(action.key_id), seen.journal.key(action.key_id)
    assert key is not None
    assert key.status is KeyStatus.ACTIVE
    if action.reason is Reason.SECRET_LOST:
        assert never_published(seen, key.id, fact)
        return
    assert policy is not None
    assert fact.retirement is not None
    assert fact.retirement.deactivated_at is None, "somebody reactivated it"
    assert not fact.retirement.reactivated, "somebody reactivated it"
    assert proven_now(seen) or (isinstance(seen.vault, VaultAbsent) and person_said_so(fact))
    emergency = (seen.asked is not None and seen.asked.emergency) or (
        seen.journal.rotation is not None
        and seen.journal.rotation.kind is RotationKind.EMERGENCY
        and seen.journal.rotation.old_key_id == key.id
    )
    if emergency or fact.retirement.why is RetireWhy.REPLACED:
        return
    assert use_known(key)
    if not person_said_so(fact):
        assert fact.retirement.started_at + policy.overlap <= NOW
    if isinstance(key.last_use, Used):
        silent = key.last_use.at + policy.unused_for <= NOW
        held_from = fact.retirement.started_at + policy.overlap
        tired = policy.still_used is StillUsed.DEACTIVATE and held_from + policy.max_hold <= NOW
        assert silent or tired
        assert fact.retirement.why is not RetireWhy.ORPHAN, "a key that was used is nobody's orphan"


# --- P4 ---------------------------------------------------------------------------------------------------------------

UNREADABLE: dict[str, Callable[[Observed], Observed]] = {
    "Vault": lambda seen: replace(seen, vault=VaultUnreadable("sealed")),
    "the tags that select a policy": lambda seen: replace(seen, selection=Selection.UNKNOWN),
    "whose path it is": lambda seen: replace(seen, problems=(Reason.PATH_COLLISION,)),
    "a key's status": lambda seen: replace(
        seen, keys=tuple(replace(key, status=KeyStatus.EXPIRED) for key in seen.keys)
    ),
    "what our own last change did": lambda seen: replace(seen, quiet_until=NOW + SECOND),
}


@pytest.mark.parametrize("what", UNREADABLE)
@given(case=observations())
@FEW
def test_p4_while_it_cannot_be_told_nothing_is_changed(what: str, case: Case) -> None:
    seen = UNREADABLE[what](case[0])
    if what == "a key's status" and not seen.keys:
        return
    assert isinstance(decide(seen, case[1], NOW), Rest)


FAILED_LOOKS: dict[str, Callable[[Observed], Observed]] = {
    "last uses": lambda seen: replace(
        seen, keys=tuple(replace(key, last_use=UseUnknown("throttled")) for key in seen.keys)
    ),
    "last uses that nobody asked for": lambda seen: replace(
        seen, keys=tuple(replace(key, last_use=None) for key in seen.keys)
    ),
    "Vault's history": lambda seen: replace(seen, history=None),
    "a version since the intent": lambda seen: replace(seen, history=_unreadable(seen.history)),
    "the proof": lambda seen: replace(
        seen, proof=None if seen.proof is None else replace(seen.proof, result=Proof.UNAVAILABLE)
    ),
    "CloudTrail": lambda seen: replace(seen, origins={}, claims={}),
    "the journal": lambda seen: replace(seen, journal=facts()),
}


def _unreadable(seen: VaultHistory | None) -> VaultHistory | None:
    if seen is None:
        return None
    return replace(
        seen,
        versions=tuple(
            VaultVersion(version=v.version, created_at=v.created_at, readable=False, access_key_id=None)
            for v in seen.versions
        ),
    )


@pytest.mark.parametrize("what", FAILED_LOOKS)
@given(case=observations())
@FEW
def test_p4_a_failed_look_never_makes_a_rest_into_a_destructive_step(what: str, case: Case) -> None:
    seen, policy = case
    if isinstance(decide(seen, policy, NOW), Rest):
        assert not destructive(decide(FAILED_LOOKS[what](seen), policy, NOW))


@given(observations())
@MANY
def test_p4_without_its_journal_nothing_is_deactivated_or_deleted(case: Case) -> None:
    seen, policy = case
    assert not destructive(decide(replace(seen, journal=facts()), policy, NOW))


# --- P5 ---------------------------------------------------------------------------------------------------------------


def explained(seen: Observed, policy: Policy | None, key_id: AccessKeyId, action: Action) -> bool:
    """Whether the journal, Vault, CloudTrail or a person's word says that rekeyd may act on this key."""
    fact, opened, current = seen.journal.key(key_id), seen.journal.rotation, seen.vault
    ours = fact.made_by is not None or fact.retirement is not None or fact.deactivated_by_us
    in_rotation = opened is not None and key_id in (opened.old_key_id, opened.new_key_id)
    in_vault = seen.history is not None and seen.history.latest_naming(key_id) is not None
    noted = isinstance(current, VaultHeld) and current.note is not None and current.note.old_access_key_id == key_id
    sent = {intent.operation_id for intent in seen.journal.unresolved}
    proven = seen.origins.get(key_id) is Origin.OURS and seen.claims.get(key_id) in sent
    by_cloudtrail = isinstance(action, Claim) and proven
    named = seen.asked is not None and seen.asked.replace == key_id
    allowed = policy is not None and (
        policy.orphans.attribution is Attribution.WINDOW or policy.spare_key is SpareKey.RETIRE_UNUSED
    )
    return ours or in_rotation or in_vault or noted or by_cloudtrail or named or allowed


@given(observations())
@MANY
def test_p5_a_key_that_nothing_explains_is_not_touched(case: Case) -> None:
    seen, policy = case
    action = decide(seen, policy, NOW)
    key_id = touched(action)
    if key_id is not None:
        assert explained(seen, policy, key_id, action)


@given(observations())
@MANY
def test_p5_a_strangers_key_is_at_most_reported_waited_for_or_adopted(case: Case) -> None:
    seen = case[0]
    stranger = AccessKeyId("AKIASTRANGER")
    shown = replace(seen.keys[-1], id=stranger, created_at=NOW - 3 * DAY) if seen.keys else None
    seen = seen if shown is None else replace(seen, keys=(*seen.keys[:-1], shown))
    strict = replace(case[1] or POLICY, orphans=Orphans(), spare_key=SpareKey.REFUSE)
    assert touched(decide(seen, strict, NOW)) != stranger


# --- the rest of what a step may rest on ------------------------------------------------------------------------------


@given(observations())
@MANY
def test_a_key_is_issued_only_into_a_free_slot_of_an_open_rotation(case: Case) -> None:
    seen, policy = case
    action = decide(seen, policy, NOW)
    if isinstance(action, IssueKey):
        assert len(seen.keys) < 2
        opened = seen.journal.rotation
        assert opened is not None
        assert (opened.id, opened.state) == (action.rotation_id, IssueState.OPENED)
    if isinstance(action, OpenRotation):
        assert seen.journal.rotation is None
        observing = seen.gate is not None and seen.gate.reason is Reason.OBSERVE_MODE
        assert not observing or action.kind is RotationKind.ROLLBACK


@given(observations())
@MANY
def test_nothing_is_published_again_but_an_active_target_that_vault_still_keeps(case: Case) -> None:
    seen, policy = case
    action = decide(seen, policy, NOW)
    if isinstance(action, Republish):
        target = seen.find(action.key_id)
        assert target is not None
        assert target.status is KeyStatus.ACTIVE
        assert seen.history is not None
        assert any((v.version, v.access_key_id) == (action.version, target.id) for v in seen.history.versions)


@given(observations())
@MANY
def test_every_wait_ends_later_and_the_same_look_gives_the_same_answer(case: Case) -> None:
    seen, policy = case
    action = decide(seen, policy, NOW)
    assert action == decide(seen, policy, NOW)
    if isinstance(action, Wait):
        assert action.until > NOW
    if isinstance(action, Refuse) and action.until is not None and seen.gate is None:
        assert action.until > NOW


@pytest.mark.parametrize(
    "verb",
    [
        OpenRotation,
        IssueKey,
        Republish,
        ProveHeld,
        StartRetirement,
        StartQuarantine,
        Claim,
        Deactivate,
        Reactivate,
        Delete,
        Burn,
        Close,
        Wait,
        Idle,
        Refuse,
    ],
)
def test_the_bent_observations_reach_every_verb(verb: type[Step | Rest]) -> None:
    case = find(
        observations(),
        lambda case: isinstance(decide(case[0], case[1], NOW), verb),
        settings=settings(max_examples=5000, database=None),
    )
    assert isinstance(decide(case[0], case[1], NOW), verb)
