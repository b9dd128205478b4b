"""One look at a principal: gather what IAM, Vault and the journal show into an `Observed`.

Nothing outside is changed here, and nothing is written: what a look found out comes
back as notes, which only the account's holder writes down. So `plan` and `explain`
see exactly what the daemon would.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rekeyd.core.model import (
    AccessKey,
    AccessKeyId,
    Asked,
    HeldProof,
    IssueState,
    JournalFacts,
    KeyStatus,
    Observed,
    Origin,
    Place,
    Principal,
    Proof,
    RotationKind,
    Selection,
    VaultAbsent,
    VaultHeld,
    VaultSeen,
    VaultUnreadable,
)
from rekeyd.core.policy import Attribution, Policy, Selected, select
from rekeyd.core.reasons import Reason
from rekeyd.core.unfinished import CREATE_TIME_OUT, unexplained
from rekeyd.errors import RefusedError
from rekeyd.ports import Clock, Iam, Known, PendingChange, Vault
from rekeyd.reconcile.rules import Circumstances, Rules
from rekeyd.reconcile.trust import Note, Trusted, history_needed, trusted
from rekeyd.reconcile.whereabouts import whereabouts

# AWS refuses a signature older than minutes ("within 15 minutes"; the exact limit is unverified). A process that was
# frozen with a signed request in hand can do no more harm after that.
SIGNATURE_LIFE = timedelta(minutes=15)

KnownOf = Callable[[Principal], Known]


_ELSEWHERE = frozenset({Reason.USER_RENAMED, Reason.VAULT_MOVED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    at: datetime
    """Read before AWS was asked. It answered, so the clock was right: nothing that is done about what was seen
    happened earlier, whatever the clock says then."""
    seen: Observed
    policy: Policy | None
    known: Known
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    vault: Vault
    clock: Clock
    rules: Rules

    def look(
        self,
        iam: Iam,
        user_name: str,
        *,
        known_of: KnownOf,
        around: Circumstances,
        asked: Asked | None = None,
        proof: HeldProof | None = None,
    ) -> Look:
        """NotFoundError: there is no such user. Other errors of ours: it could not be looked at."""
        now = self.clock.now()
        principal = iam.get_user(user_name)
        selected = select(self.rules.policies, principal)
        known = known_of(principal)
        keys = iam.list_access_keys(principal.user_name)
        place, problems = self._place(principal, known, around, asked, selected)
        vault = self.vault.current(place) if place.path else VaultUnreadable("there is no valid place")
        history = None
        if _wants_history(known, vault, place, keys, asked):
            history = self.vault.history(place)
        # An anchor speaks of the place that it was taken at: of another one it proves nothing, and it is kept.
        elsewhere = not _ELSEWHERE.isdisjoint(problems)
        trust = Trusted(known.facts) if elsewhere else trusted(principal, known, vault, place, history, now)
        if not _is_about(proof, vault):
            proof = None
        facts, notes = _follow_held(principal, trust.facts, keys, vault, proof, now)
        seen = Observed(
            principal=principal,
            keys=_with_last_use(iam, keys, vault),
            vault=vault,
            place=place,
            history=history,
            journal=facts,
            selection=selected.selection,
            problems=problems,
            asked=asked,
            proof=proof,
            gate=around.gate,
            windows=None if selected.policy is None else self.rules.windows_of(selected.policy, now),
            quiet_until=_quiet_until(known, around, self.rules.settle),
            settle_seconds=self.rules.settle.total_seconds(),
        )
        seen = _with_origins(seen, selected, iam)
        ended = (*_settled(principal, known, seen, now), *_gone(principal, known, seen, asked, now))
        notes = (*trust.notes, *notes, *ended)
        return Look(at=now, seen=seen, policy=selected.policy, known=known, notes=notes)

    def _place(
        self, principal: Principal, known: Known, around: Circumstances, asked: Asked | None, selected: Selected
    ) -> tuple[Place, tuple[Reason, ...]]:
        problems: list[Reason] = []
        if around.mark_problem is not None:
            problems.append(around.mark_problem)
        if principal.arn in around.own_arns:
            problems.append(Reason.OWN_IDENTITY)
        # A person who asks for this very user has seen that it is another one now.
        if asked is None and known.name_taken_by is not None:
            problems.append(Reason.USER_RECREATED)
        if asked is None and known.user_name is not None and known.user_name != principal.user_name:
            problems.append(Reason.USER_RENAMED)
        published = known.facts.publication
        if selected.selection is not Selection.MANAGED and published is not None:
            # No policy says where its pair belongs, so it is where it was put.
            return published.place, tuple(problems)
        try:
            place = self.rules.place_of(principal)
        except RefusedError:
            nowhere = Place(address="", namespace="", mount="", path="", id_field="", secret_field="")
            return nowhere, (*problems, Reason.BAD_PATH)
        # Before its first pair is on its way to this place; it lists other accounts, so it comes before `collides`.
        new = known.facts.rotation is None and (published is None or published.place != place)
        unlisted = new and around.unlisted(principal)
        if around.collides(principal, place):
            problems.append(Reason.PATH_COLLISION)
        elif unlisted:
            problems.append(Reason.PATH_UNCERTAIN)
        # Where no policy says where a pair belongs, none can be at a wrong place.
        if published is not None or selected.selection is Selection.MANAGED:
            stands = whereabouts(principal, known, place, self.rules, self.vault)
            if stands is not None and stands.place != place:
                problems.append(Reason.VAULT_MOVED)
        return place, tuple(problems)


def _wants_history(
    known: Known, vault: VaultSeen, place: Place, keys: tuple[AccessKey, ...], asked: Asked | None
) -> bool:
    if not isinstance(vault, VaultHeld | VaultAbsent):
        return False
    rotation = known.facts.rotation
    if asked is not None and asked.rollback:
        return True
    if rotation is not None and (rotation.kind is RotationKind.ROLLBACK or rotation.state is IssueState.PUBLISHING):
        return True
    held_id = vault.access_key_id if isinstance(vault, VaultHeld) else None
    for key in keys:
        facts = known.facts.key(key.id)
        if key.id != held_id and facts.retirement is None and (facts.made_by is not None or held_id is not None):
            return True
    return history_needed(known, vault, place)


def _is_about(proof: HeldProof | None, vault: VaultSeen) -> bool:
    return (
        proof is not None
        and isinstance(vault, VaultHeld)
        and (proof.version, proof.access_key_id) == (vault.version, vault.access_key_id)
    )


def _with_last_use(iam: Iam, keys: tuple[AccessKey, ...], vault: VaultSeen) -> tuple[AccessKey, ...]:
    """Asked only for keys that Vault does not hold, and not for the only key of an unmanaged user."""
    held_id = vault.access_key_id if isinstance(vault, VaultHeld) else None
    if held_id is None and len(keys) == 1:
        return keys
    return tuple(key if key.id == held_id else replace(key, last_use=iam.last_use(key.id)) for key in keys)


def _follow_held(
    principal: Principal,
    facts: JournalFacts,
    keys: tuple[AccessKey, ...],
    vault: VaultSeen,
    proof: HeldProof | None,
    now: datetime,
) -> tuple[JournalFacts, tuple[Note, ...]]:
    """Remember since when the held key has been seen dead."""
    if not isinstance(vault, VaultHeld):
        return facts, ()
    held = next((key for key in keys if key.id == vault.access_key_id), None)
    refused = proof is not None and proof.result in (Proof.WRONG_SECRET, Proof.NOT_HONOURED)
    dead = held is None or held.status is not KeyStatus.ACTIVE or refused
    since = facts.held_dead_since
    if dead and since is None:
        return replace(facts, held_dead_since=now), (lambda journal: journal.held_dead(principal, since=now),)
    well = not dead and (proof is not None or facts.proven_version == vault.version)
    if well and since is not None:
        return replace(facts, held_dead_since=None), (lambda journal: journal.held_dead(principal, since=None),)
    return facts, ()


def _quiet_until(known: Known, around: Circumstances, settle: timedelta) -> datetime | None:
    ends = [] if known.last_change_at is None else [known.last_change_at + settle]
    rotation = known.facts.rotation
    if rotation is not None and rotation.state is IssueState.CREATING and rotation.create_sent_at is not None:
        ends.append(rotation.create_sent_at + CREATE_TIME_OUT + settle)
    for change in known.pending:
        ends.append(change.sent_at + CREATE_TIME_OUT + settle)
        if change.holder_alive and change.holder != around.holder and around.lease_since is not None:
            # It may be frozen with the signed request in hand. Its clock may not be ours, so the later time counts.
            ends.append(max(around.lease_since, change.sent_at) + SIGNATURE_LIFE)
    return max(ends, default=None)


def _with_origins(seen: Observed, selected: Selected, iam: Iam) -> Observed:
    """Ask CloudTrail, only when a key appeared that a lost CreateAccessKey of ours could have made."""
    keys = unexplained(seen)
    if not keys or selected.policy is None or selected.policy.orphans.attribution is not Attribution.CLOUDTRAIL:
        return seen
    created = iam.who_created(seen.journal.unresolved, seen.principal.user_name)
    ours = {intent.operation_id for intent in seen.journal.unresolved}
    origins = {key.id: _origin(created, key.id, ours) for key in keys}
    claims = {
        key_id: operation_id
        for key_id, operation_id in (created or {}).items()
        if operation_id is not None and origins.get(key_id) is Origin.OURS
    }
    return replace(seen, origins=origins, claims=claims)


def _origin(created: Mapping[AccessKeyId, str | None] | None, key_id: AccessKeyId, ours: set[str]) -> Origin:
    if created is None:
        return Origin.UNAVAILABLE
    if key_id not in created:
        return Origin.NO_EVENT
    return Origin.OURS if created[key_id] in ours else Origin.FOREIGN


def _settled(principal: Principal, known: Known, seen: Observed, now: datetime) -> tuple[Note, ...]:
    """What became of changes whose answer was lost, once IAM can be believed about them."""
    if not known.pending or (seen.quiet_until is not None and now < seen.quiet_until):
        return ()
    return tuple(_settle_one(principal, change, seen.find(change.key_id), now) for change in known.pending)


def _settle_one(principal: Principal, change: PendingChange, key: AccessKey | None, now: datetime) -> Note:
    match change.verb:
        case "deactivate":
            happened = key is None or key.status is KeyStatus.INACTIVE
        case "reactivate":
            happened = key is not None and key.status is KeyStatus.ACTIVE
        case _:
            happened = key is None
    return lambda journal: journal.settle_pending(principal, change.key_id, verb=change.verb, happened=happened, at=now)


def _gone(principal: Principal, known: Known, seen: Observed, asked: Asked | None, now: datetime) -> tuple[Note, ...]:
    """Clocks of keys that somebody else deleted or reactivated, and a predecessor of this name whom a person let go."""
    notes: list[Note] = []
    before = known.name_taken_by
    if asked is not None and before is not None:
        predecessor = replace(principal, user_id=before)
        notes.append(lambda journal: journal.forget(predecessor, reason="re-created", at=now))
    if seen.quiet_until is not None and now < seen.quiet_until:
        return tuple(notes)
    in_flight = {change.key_id for change in known.pending}
    for key_id, facts in known.facts.keys.items():
        key = seen.find(key_id)
        if facts.retirement is None or key_id in in_flight:
            continue
        if key is None and not facts.gone:
            notes.append(_end_of(principal, key_id, now))
        if key is not None and key.status is KeyStatus.ACTIVE and facts.retirement.deactivated_at is not None:
            notes.append(_void_of(principal, key_id, now))
    return tuple(notes)


def _end_of(principal: Principal, key_id: AccessKeyId, now: datetime) -> Note:
    return lambda journal: journal.end_retirement(principal, key_id, reason=Reason.KEY_GONE, at=now)


def _void_of(principal: Principal, key_id: AccessKeyId, now: datetime) -> Note:
    return lambda journal: journal.seen_active(principal, key_id, at=now)
