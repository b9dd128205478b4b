"""The admin hand: people who change IAM and Vault beside rekeyd, and the setting up of a test.

What they do to keys and to Vault's pair excuses promises for just that key or version (promises.py);
creating a key or editing another field excuses nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from rekeyd.core.model import AccessKeyId, KeyStatus, Place, Principal
from rekeyd.core.secret import Secret
from rekeyd.errors import NotFoundError
from rekeyd.ports import Pair
from tests.world.aws import Aws, Hand, KeyState, RootKey
from tests.world.promises import Promises
from tests.world.vault import SecretState, VaultState, address_of


class Operators:
    def __init__(self, aws: Aws, vault: VaultState, promises: Promises) -> None:
        self.hand = Hand.ADMIN
        self._aws = aws
        self._vault = vault
        self._promises = promises

    # --- users ----------------------------------------------------------------------------------------------------

    def create_user(
        self, account_id: str, user_name: str, *, path: str = "/", tags: Mapping[str, str] | None = None
    ) -> Principal:
        return self._aws.create_user(account_id, user_name, path=path, tags=tags or {}).principal

    def delete_user(self, account_id: str, user_name: str) -> None:
        """With its keys."""
        self._aws.delete_user(self._aws.user(account_id, user_name), by=self.hand)

    def rename_user(self, account_id: str, user_name: str, new_name: str, *, path: str | None = None) -> Principal:
        user = self._aws.user(account_id, user_name)
        self._aws.rename_user(user, new_name, path=path)
        return user.principal

    def recreate_user(self, account_id: str, user_name: str) -> Principal:
        """Deleted and made again under the same name, path and tags: another UserId, no keys."""
        old = self._aws.user(account_id, user_name)
        self.delete_user(account_id, user_name)
        return self.create_user(account_id, old.name, path=old.path, tags=old.tags)

    def tag_user(self, account_id: str, user_name: str, tags: Mapping[str, str]) -> Principal:
        """Replaces all tags."""
        user = self._aws.user(account_id, user_name)
        user.tags = dict(tags)
        user.principal_cache = None
        return user.principal

    # --- keys -----------------------------------------------------------------------------------------------------

    def create_key(self, account_id: str, user_name: str) -> Pair:
        """As IAM allows: LimitExceededError over two."""
        return _pair(self._aws.create_key(self._aws.user(account_id, user_name), by=self.hand))

    def add_key(
        self,
        account_id: str,
        user_name: str,
        *,
        age: timedelta = timedelta(0),
        status: KeyStatus = KeyStatus.ACTIVE,
    ) -> Pair:
        """As parallel creation has managed: beyond the quota, and of any age."""
        user = self._aws.user(account_id, user_name)
        return _pair(self._aws.create_key(user, by=self.hand, age=age, status=status, over_quota=True))

    def deactivate(self, key_id: str) -> None:
        self._aws.set_status(self._key(key_id), KeyStatus.INACTIVE, by=self.hand)

    def reactivate(self, key_id: str) -> None:
        self._aws.set_status(self._key(key_id), KeyStatus.ACTIVE, by=self.hand)

    def set_status(self, key_id: str, status: KeyStatus) -> None:
        self._aws.set_status(self._key(key_id), status, by=self.hand)

    def delete_key(self, key_id: str) -> None:
        self._aws.delete_key(self._key(key_id), by=self.hand)

    # --- root -----------------------------------------------------------------------------------------------------

    def add_root_key(self, account_id: str, *, active: bool = True, age: timedelta = timedelta(0)) -> RootKey:
        """Its fields may be changed afterwards (`active`, `last_used_at`)."""
        key = RootKey(created_at=(self._aws.clock.now() - age).replace(microsecond=0), active=active)
        self._aws.account(account_id).root_keys.append(key)
        return key

    def remove_root_keys(self, account_id: str) -> None:
        self._aws.account(account_id).root_keys.clear()

    # --- Vault ----------------------------------------------------------------------------------------------------

    def write_pair(self, place: Place, pair: Pair) -> int:
        """Keeps the other fields; returns the version."""
        pair_fields = {
            place.id_field: str(pair.access_key_id),
            place.secret_field: pair.secret_access_key.reveal(),
        }
        return self._write(place, self._fields(place) | pair_fields, pair_by=self.hand)

    def write_fields(self, place: Place, fields: Mapping[str, str]) -> int:
        """A new version with exactly these fields."""
        return self._write(place, dict(fields), pair_by=self.hand)

    def edit_field(self, place: Place, name: str, value: str) -> int:
        """Another field than the pair's: no interference with the pair."""
        served = self._vault.served(place)
        pair_by = served.pair_by if served is not None else self.hand
        fields = self._fields(place) | {name: value}
        return self._vault.write(address_of(place), fields, cas=None, by=self.hand, pair_by=pair_by).number

    def restore(self, place: Place, version: int) -> int:
        """A new version with the fields of an old one."""
        fields = self._secret(place).versions[version].fields
        return self._write(place, dict(fields), pair_by=self.hand)

    def soft_delete(self, place: Place, version: int | None = None) -> None:
        """None: the current one."""
        self._mark_deleted(place, version, deleted=True)

    def undelete(self, place: Place, version: int | None = None) -> None:
        self._mark_deleted(place, version, deleted=False)

    def destroy(self, place: Place, versions: Sequence[int] | None = None) -> None:
        """None: the current one."""
        self._vault.destroy(address_of(place), versions or (self._secret(place).current,))
        self._touch(place)

    def delete_metadata(self, place: Place) -> None:
        """Every version and its numbering."""
        self._vault.secrets.pop(address_of(place), None)
        self._vault.reindex(address_of(place))

    def set_max_versions(self, place: Place, max_versions: int) -> None:
        """Takes effect at the next write."""
        self._secret(place).max_versions = max_versions

    def set_custom_metadata(self, place: Place, metadata: Mapping[str, str]) -> None:
        """Other people's; rekeyd's note stays."""
        self._secret(place).custom_metadata = dict(metadata)

    def drop_note(self, place: Place) -> None:
        """Somebody replaces the whole custom metadata, as `POST metadata` does."""
        self._secret(place).note = None

    def served_fields(self, place: Place) -> dict[str, str]:
        """What a consumer reads now; empty when there is nothing to read. Holds the secret."""
        return self._fields(place)

    # --- parts ----------------------------------------------------------------------------------------------------

    def _key(self, key_id: str) -> KeyState:
        key = self._aws.keys.get(AccessKeyId(key_id))
        if key is None or key.deleted:
            raise NotFoundError(f"access key {key_id}: there is no such key")
        return key

    def _secret(self, place: Place) -> SecretState:
        secret = self._vault.secrets.get(address_of(place))
        if secret is None:
            raise NotFoundError(f"vault {place.path}: there is no such secret")
        return secret

    def _fields(self, place: Place) -> dict[str, str]:
        served = self._vault.served(place)
        return dict(served.fields) if served is not None else {}

    def _write(self, place: Place, fields: dict[str, str], *, pair_by: Hand) -> int:
        version = self._vault.write(address_of(place), fields, cas=None, by=self.hand, pair_by=pair_by)
        self._touch(place)
        return version.number

    def _mark_deleted(self, place: Place, number: int | None, *, deleted: bool) -> None:
        secret = self._secret(place)
        version = secret.versions.get(secret.current if number is None else number)
        if version is not None:
            version.deleted = deleted
            self._vault.reindex(address_of(place))
            self._touch(place)

    def _touch(self, place: Place) -> None:
        if self.hand is Hand.ADMIN:
            self._secret(place).changed_by_admin = self._promises.tick()


def _pair(key: KeyState) -> Pair:
    return Pair(access_key_id=key.id, secret_access_key=Secret(key.secret))
