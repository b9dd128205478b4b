"""Bring a held pair to the place that the configuration names now.

The pair is read where it was published, proven, written to the new place with check-and-set, read back there and
proven again; only then does the journal call the new place its own. Until that moment the user stays refused as
`vault_moved`, and a move that was interrupted is simply made again: what stands at the new place already is
recognised. The old place is left as it is, since consumers read it until they are pointed elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rekeyd.core.events import Event
from rekeyd.core.model import (
    AccessKeyId,
    IssueState,
    Place,
    Principal,
    Proof,
    PublishNote,
    RotationId,
    Selection,
    VaultAbsent,
    VaultHeld,
    VaultSeen,
    VaultWithoutPair,
)
from rekeyd.core.policy import Policy, select
from rekeyd.core.reasons import Reason
from rekeyd.errors import ConflictError, Error, StateError, TemporaryError
from rekeyd.logs import get_logger
from rekeyd.ports import AccountJournal, Clock, Cloud, Known, Pair, Vault
from rekeyd.reconcile.prove import Prover
from rekeyd.reconcile.rules import Rules, always_listed
from rekeyd.reconcile.whereabouts import Whereabouts, whereabouts

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    key_id: AccessKeyId
    before: Place
    after: Place
    version: int
    changed: bool
    """False: it was there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    cloud: Cloud
    vault: Vault
    clock: Clock
    rules: Rules
    collides: Callable[[Principal, Place], bool]
    unlisted: Callable[[Principal], bool] = always_listed

    def move(self, journal: AccountJournal, principal: Principal) -> Moved:
        """StateError: a person must act first. Other errors: it did not come to an end and may be asked for again."""
        policy = self._policy(principal)
        known = journal.known(principal)
        place = self.rules.place_of(principal)
        published = self._published(principal, known, place)
        if place == published.place:
            return Moved(
                key_id=published.access_key_id,
                before=place,
                after=place,
                version=published.version,
                changed=False,
            )
        unlisted = self.unlisted(principal)  # lists other accounts, so it comes before `collides`
        if self.collides(principal, place):
            raise StateError(f"{principal.label}: {Reason.PATH_COLLISION.sentence}: {place.mount}/{place.path}")
        if unlisted:
            raise StateError(f"{principal.label}: {Reason.PATH_UNCERTAIN.sentence}: {place.mount}/{place.path}")
        seen = self.vault.current(place)
        if not (isinstance(seen, VaultHeld) and seen.access_key_id == published.access_key_id):
            self._copy(journal, principal, published, place, seen, policy)
        held = self._proven_there(principal, place, published.access_key_id, policy)
        at = self.clock.now()
        journal.moved(
            principal,
            held.access_key_id,
            before=published.place,
            to=place,
            version=held.version,
            version_created_at=held.created_at,
            at=at,
        )
        log.info(
            Event.KEY_MOVED,
            access_key_id=held.access_key_id,
            vault_path=place.path,
            vault_version=held.version,
            before=f"{published.place.mount}/{published.place.path}",
        )
        self._note(principal, place, held, known, at)
        return Moved(key_id=held.access_key_id, before=published.place, after=place, version=held.version, changed=True)

    def _policy(self, principal: Principal) -> Policy:
        selected = select(self.rules.policies, principal)
        if selected.selection is not Selection.MANAGED or selected.policy is None:
            raise StateError(f"no policy manages {principal.label}", hint="its pair stays where it is")
        return selected.policy

    def _published(self, principal: Principal, known: Known, place: Place) -> Whereabouts:
        rotation, facts = known.facts.rotation, known.facts
        # Versions of the old place explain an unfinished issue; it must be finished where it was begun.
        if (rotation is not None and rotation.state is not IssueState.PUBLISHED) or facts.unresolved or known.pending:
            raise StateError(
                f"a rotation of {principal.label} is unfinished",
                hint="set the place back, let the daemon finish the rotation, then move",
            )
        before = whereabouts(principal, known, place, self.rules, self.vault)
        if before is None:
            raise StateError(
                f"rekeyd has never published a pair of {principal.label}",
                hint="copy it by hand, or let rotate-now make a new one at the new place",
            )
        return before

    def _copy(
        self,
        journal: AccountJournal,
        principal: Principal,
        published: Whereabouts,
        place: Place,
        seen: VaultSeen,
        policy: Policy,
    ) -> None:
        cas = _free_number(principal, place, seen, same_secret=_secret(place) == _secret(published.place))
        if published.place.address != place.address:
            raise StateError(
                f"the pair of {principal.label} is in Vault at {published.place.address}, and rekeyd speaks to "
                f"{place.address} only",
                hint="copy the secret there first (a restored snapshot will do), then move",
            )
        pair = self._held_pair(principal, published, policy)
        self.vault.check_writable(place)
        journal.move_intended(principal, pair.access_key_id, to=place, cas=cas, at=self.clock.now())
        self.vault.publish(
            place,
            pair,
            cas=cas,
            extra=self.rules.extra_of(policy),
            guard=journal.guard,
            give_up_at=self.clock.now() + policy.publish_timeout,
        )

    def _held_pair(self, principal: Principal, published: Whereabouts, policy: Policy) -> Pair:
        held = self.vault.current(published.place)
        where = f"{published.place.mount}/{published.place.path}"
        if not isinstance(held, VaultHeld) or held.access_key_id != published.access_key_id:
            raise StateError(
                f"{where} does not hold {published.access_key_id} of {principal.label} any more",
                hint="set the place back and see what rekeyd explain says",
            )
        pair = self.vault.read_pair(published.place, held.version)
        if pair is None or pair.access_key_id != held.access_key_id:
            raise TemporaryError(f"version {held.version} of {where} could not be read")
        self._prove(pair, principal, policy, version=held.version)
        return pair

    def _proven_there(self, principal: Principal, place: Place, key_id: AccessKeyId, policy: Policy) -> VaultHeld:
        held = self.vault.current(place)
        where = f"{place.mount}/{place.path}"
        if not isinstance(held, VaultHeld) or held.access_key_id != key_id:
            raise ConflictError(f"{where} does not serve {key_id} of {principal.label}", hint="move again")
        pair = self.vault.read_pair(place, held.version)
        if pair is None or pair.access_key_id != key_id:
            raise TemporaryError(f"version {held.version} of {where} could not be read back")
        self._prove(pair, principal, policy, version=held.version)
        return held

    def _prove(self, pair: Pair, principal: Principal, policy: Policy, *, version: int) -> None:
        prover = Prover(sts=self.cloud.sts, clock=self.clock, region=self.rules.region)
        proof = prover.once(pair, principal, policy, version=version)
        if proof.result is not Proof.ACCEPTED:
            raise StateError(
                f"AWS does not accept the pair {pair.access_key_id} of {principal.label} ({proof.result})",
                hint="see what rekeyd explain says",
            )

    def _note(self, principal: Principal, place: Place, held: VaultHeld, known: Known, at: datetime) -> None:
        rotation = known.facts.rotation
        note = PublishNote(
            version=held.version,
            user_id=principal.user_id,
            access_key_id=held.access_key_id,
            old_access_key_id=None if rotation is None else rotation.old_key_id,
            rotation_id=RotationId("moved") if rotation is None else rotation.id,
            published_at=at if known.facts.publication is None else known.facts.publication.published_at,
        )
        try:
            self.vault.write_note(place, note)
        except Error as error:
            log.warning(Event.NOTE_FAILED, error=error.message)  # only a help for a day without journal


def _secret(place: Place) -> tuple[str, str, str, str]:
    """Without the names of the fields."""
    return (place.address, place.namespace, place.mount, place.path)


def _free_number(principal: Principal, place: Place, seen: VaultSeen, *, same_secret: bool) -> int:
    """The number for check-and-set. StateError unless the place is free for this pair."""
    match seen:
        case VaultAbsent(version=version):
            return version
        case VaultWithoutPair(version=version) if same_secret:
            return version  # only the fields have other names: the old ones stay beside them
        case VaultHeld():
            why = f"holds another key, {seen.access_key_id}"
        case VaultWithoutPair():
            why = "holds somebody else's fields"
        case _:
            why = "is deleted, destroyed or unreadable"
    raise StateError(
        f"the new place of {principal.label}, {place.mount}/{place.path}, {why}",
        hint="empty it with all its versions, or choose another place",
    )
