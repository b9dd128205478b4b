"""What rekeyd promises, checked at the moment of each call; `World.check_promises()` raises what was found.

A broken promise is noted, not raised at once: an AssertionError inside a port call could be taken for a failing user.
The operators' hand excuses P1 and P2 only where it really interfered.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from rekeyd.core.model import AccessKeyId, AccountId, KeyStatus, Place, Principal, UserId
from rekeyd.core.policy import Attribution, Policy, SpareKey
from tests.world.aws import Aws, Hand, KeyState, UserState

if TYPE_CHECKING:
    from tests.world.vault import Address, VaultState

PolicyOf = Callable[[Principal], Policy | None]


class Promises:
    def __init__(self, aws: Aws, vault: "VaultState", region: str) -> None:
        self.violations: list[str] = []
        self.policy_of: PolicyOf = lambda _principal: None
        """For quarantines and for what a policy allows; None: only what needs no policy is checked."""
        self.allowed: set[AccessKeyId] = set()
        """Keys of which a person said so (`--replace`): P5 does not hold for them."""
        self.waived: set[AccessKeyId] = set()
        """Keys whose quarantine a person waived (`--emergency`)."""
        self.proof_window: timedelta | None = timedelta(minutes=15)
        """A deletion needs a proof of the held pair that is at most so old; None: not checked."""
        self.managed: dict[tuple[AccountId, UserId], tuple[Place, tuple[str, ...]]] = {}
        """Where Vault must serve a good pair, and for which Regions."""
        self._aws = aws
        self._vault = vault
        self._region = region
        self._tick = 0
        self._operations: dict[str, str] = {}
        self._proven: dict[AccessKeyId, datetime] = {}

    def tick(self) -> int:
        """A number that orders looks of rekeyd and changes by the operators."""
        self._tick += 1
        return self._tick

    def note(self, promise: str, user: UserState, text: str) -> None:
        at = self._aws.clock.now().isoformat()
        self.violations.append(f"{promise} {user.account.id}/{user.name} at {at}: {text}")

    # --- at the moment of rekeyd's calls -----------------------------------------------------------------------------

    def create_sent(self, user_name: str, operation_id: str) -> None:
        """A create may be repeated under its operation id only if AWS clearly refused every earlier one."""
        before = self._operations.get(operation_id)
        if before is not None:
            self.violations.append(
                f"once {user_name}: CreateAccessKey of operation {operation_id} sent again ({before})"
            )
        self._operations[operation_id] = "outcome unknown"

    def create_answered(self, operation_id: str, *, made: bool) -> None:
        if made:
            self._operations[operation_id] = "made"
        else:
            self._operations.pop(operation_id, None)

    def created(self, key: KeyState) -> None:
        others = [other for other in key.owner.keys.values() if other is not key]
        if len(others) == 1 and self._served_for(key.owner) is None:
            others[0].adopted = True

    def before_update(self, key: KeyState, status: KeyStatus) -> None:
        self._check_stranger(key, "deactivated" if status is KeyStatus.INACTIVE else "reactivated")
        if status is not KeyStatus.ACTIVE:
            self._check_not_held(key, "deactivated")

    def updated(self, key: KeyState, status: KeyStatus) -> None:
        key.seen_inactive_at = self._aws.clock.now() if status is not KeyStatus.ACTIVE else None

    def listed(self, user: UserState, shown_inactive: Sequence[AccessKeyId]) -> None:
        for key_id in shown_inactive:
            key = user.keys.get(key_id)
            if key is not None and key.status is not KeyStatus.ACTIVE and key.seen_inactive_at is None:
                key.seen_inactive_at = self._aws.clock.now()

    def proven(self, key_id: AccessKeyId) -> None:
        self._proven[key_id] = self._aws.clock.now()

    def before_delete(self, key: KeyState) -> None:
        self._check_not_held(key, "deleted")
        self._check_stranger(key, "deleted")
        if key.made_by is Hand.REKEYD and key.id not in self._vault.ever_named:
            return
        if key.status is KeyStatus.ACTIVE:
            if not self._reactivated_unseen(key):
                self.note("P3", key.owner, f"{key.id} was deleted while Active")
            return
        self._check_quarantine(key)
        self._check_proof(key)

    def _reactivated_unseen(self, key: KeyState) -> bool:
        """By a person, so short a time ago that no list needs to show it: IAM offers no way to know."""
        changed_at, _ = key.changes[-1]
        return key.status_by is Hand.ADMIN and self._aws.clock.now() - changed_at < self._aws.lags.listing

    def published(self, place: Place, key_id: AccessKeyId) -> None:
        key = self._aws.keys.get(key_id)
        if key is None:
            return
        managed = self.managed.get((key.owner.account.id, key.owner.user_id))
        regions = managed[1] if managed is not None else (self._region,)
        self._check_serving(key.owner, place, regions)

    def before_vault_destroy(self, place: Place, versions: Sequence[int]) -> None:
        served = self._vault.served(place)
        if served is not None and served.number in versions and place.id_field in served.fields:
            self.violations.append(f"P1 {place.path}: the served version {served.number} was destroyed by rekeyd")

    # --- at any time -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError with every broken promise, those of earlier calls first."""
        found = len(self.violations)
        self._check_all(self._aws.users())
        report = "\n".join(self.violations)
        del self.violations[found:]
        if report:
            raise AssertionError(f"broken promises:\n{report}")

    def check_changed(self) -> None:
        """The same of whom something changed since the last time, in IAM or in Vault; only notes what it finds.

        Cheap enough for every call of a long simulation: what Vault serves is good or bad only by these changes, and
        by the passing of seconds after them.
        """
        if not self._aws.changed and not self._vault.changed:
            return
        touched = {user for user in self._aws.changed if user.deleted_by is None}
        if self._vault.changed:
            touched.update(self._living_at(self._vault.changed))
        self._aws.changed.clear()
        self._vault.changed.clear()
        self._check_all(sorted(touched, key=lambda user: user.user_id))

    def _living_at(self, addresses: Container["Address"]) -> Iterator[UserState]:
        for user in self._aws.users():
            place = self._place_of(user)
            if place is not None and _address_of(place) in addresses:
                yield user

    def _check_all(self, users: Iterable[UserState]) -> None:
        for user in users:
            managed = self.managed.get((user.account.id, user.user_id))
            if managed is not None:
                self._check_serving(user, *managed)

    def _check_serving(self, user: UserState, place: Place, regions: tuple[str, ...]) -> None:
        version = self._vault.served(place)
        pair = self._vault.served_pair(place)
        if version is None or pair is None:
            return  # nothing was published yet, or the operators took it away; rekeyd cannot: see before_vault_destroy
        if version.pair_by is Hand.ADMIN:
            return
        key = self._aws.keys.get(AccessKeyId(pair[0]))
        if key is None or key.owner is not user:
            self.note("P1", user, f"Vault serves {pair[0]}, which is not a key of this user")
            return
        if key.deleted_by is Hand.ADMIN or (key.status is not KeyStatus.ACTIVE and key.status_by is Hand.ADMIN):
            return
        if key.deleted:
            self.note("P1", user, f"Vault serves {key.id}, which was deleted")
        elif key.status is not KeyStatus.ACTIVE:
            self.note("P1", user, f"Vault serves {key.id}, which is {key.status}")
        elif key.secret != pair[1]:
            self.note("P1", user, f"Vault serves {key.id} with the secret of another key")
        elif key.status_by is not Hand.ADMIN:
            refused = [region for region in regions if not self._aws.honoured(key, region)]
            if refused:
                self.note("P1", user, f"Vault serves {key.id}, which is not accepted in {', '.join(refused)}")

    # --- parts -------------------------------------------------------------------------------------------------------

    def _place_of(self, user: UserState) -> Place | None:
        managed = self.managed.get((user.account.id, user.user_id))
        return managed[0] if managed is not None else None

    def _served_for(self, user: UserState) -> str | None:
        place = self._place_of(user)
        pair = self._vault.served_pair(place) if place is not None else None
        return pair[0] if pair is not None else None

    def _check_not_held(self, key: KeyState, verb: str) -> None:
        for address in self._vault.serving.get(key.id, ()):
            secret = self._vault.secrets[address]
            place = self._place_of(key.owner)
            # A person named the key, and Vault serves it only where its user is not kept any more.
            if key.id in self.allowed and (place is None or _address_of(place) != address):
                continue
            # rekeyd looked, and then the operators made Vault serve this key: nobody could have known.
            if secret.changed_by_admin > secret.read_by_rekeyd:
                continue
            self.note("P2", key.owner, f"{key.id} was {verb} while Vault served it at {address[3]}")

    def _check_stranger(self, key: KeyState, verb: str) -> None:
        if key.made_by is Hand.REKEYD or key.adopted or key.id in self._vault.ever_named or key.id in self.allowed:
            return
        policy = self.policy_of(key.owner.principal)
        if policy is not None:
            if policy.orphans.attribution is Attribution.WINDOW:
                return
            if policy.spare_key is SpareKey.RETIRE_UNUSED and self._served_for(key.owner) is None:
                return
        self.note("P5", key.owner, f"{key.id}, made by another hand, was {verb}")

    def _check_quarantine(self, key: KeyState) -> None:
        policy = self.policy_of(key.owner.principal)
        if key.id in self.waived or policy is None:
            return
        since = key.seen_inactive_at
        window_orphan = key.made_by is not Hand.REKEYD and key.id not in self._vault.ever_named
        quarantine = (
            min(policy.quarantine, policy.orphans.quarantine)
            if window_orphan and policy.orphans.attribution is Attribution.WINDOW
            else policy.quarantine
        )
        if since is None:
            self.note("P3", key.owner, f"{key.id} was deleted though rekeyd was never shown it Inactive")
        elif self._aws.clock.now() - since < quarantine:
            self.note("P3", key.owner, f"{key.id} was deleted {self._aws.clock.now() - since} after its deactivation")

    def _check_proof(self, key: KeyState) -> None:
        held = self._served_for(key.owner)
        if held is None or self.proof_window is None:
            return
        proven_at = self._proven.get(AccessKeyId(held))
        if proven_at is None or self._aws.clock.now() - proven_at > self.proof_window:
            self.note("P3", key.owner, f"{key.id} was deleted without a fresh proof of the held {held}")


def _address_of(place: Place) -> "Address":
    return (place.address, place.namespace, place.mount, place.path)
