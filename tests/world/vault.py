"""KV v2 in memory: the state with the server's own rules (facts/vault.md §1), and the `Vault` port on it.

* `cas` must be the current number, 0 when nothing was ever written; a deleted or destroyed version counts
* after a metadata delete numbering starts at 1 again
* old versions stay readable until they are destroyed, or trimmed by `max_versions` at the next write
* `created_time` is the server's clock; custom metadata is not versioned
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NoReturn

from rekeyd.core.model import (
    AccessKeyId,
    Place,
    PublishNote,
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
from rekeyd.core.secret import Secret
from rekeyd.errors import (
    AccessDeniedError,
    ConflictError,
    Error,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionError,
    RefusedError,
    StoppingError,
    TemporaryError,
)
from rekeyd.ports import Guard, Mark, Pair
from tests.world.aws import Hand
from tests.world.clock import OwnClock, VirtualClock
from tests.world.points import CallPoints
from tests.world.promises import Promises

Address = tuple[str, str, str, str]
"""address, namespace, mount, path: field names do not make another secret."""
BURN_MARKER = "rekeyd_burned"
_RETRY_EVERY = timedelta(seconds=5)


def address_of(place: Place) -> Address:
    return (place.address, place.namespace, place.mount, place.path)


@dataclass(slots=True, kw_only=True, eq=False)
class Version:
    number: int
    created_at: datetime
    fields: dict[str, str]
    by: Hand
    pair_by: Hand
    """Who put the pair there: survives edits of other fields and burns."""
    deleted: bool = False
    destroyed: bool = False

    @property
    def readable(self) -> bool:
        return not (self.deleted or self.destroyed)


@dataclass(slots=True, kw_only=True, eq=False)
class SecretState:
    created_at: datetime
    max_versions: int
    versions: dict[int, Version] = field(default_factory=dict)
    current: int = 0
    custom_metadata: dict[str, str] = field(default_factory=dict)
    """Other people's."""
    note: PublishNote | None = None
    read_by_rekeyd: int = 0
    """Journal number of rekeyd's last look at it."""
    changed_by_admin: int = 0
    """Journal number at the operators' last change of it."""

    @property
    def served(self) -> Version | None:
        """The current version, if consumers can read it."""
        version = self.versions.get(self.current)
        return version if version is not None and version.readable else None


class VaultState:
    """The server's store; both hands work on it."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.secrets: dict[Address, SecretState] = {}
        self.ever_named: set[str] = set()
        """Every access key id that any version ever held."""
        self.serving: dict[str, set[Address]] = {}
        """Access key id -> where the current version holds it."""
        self.changed: set[Address] = set()
        """What changed since the promises were last checked."""
        self.max_versions = 10
        self.clock_offset = timedelta(0)
        """The server's clock minus the true one."""
        self._indexed: dict[Address, tuple[str, ...]] = {}

    def now(self) -> datetime:
        return self.clock.now() + self.clock_offset

    def write(self, address: Address, fields: dict[str, str], *, cas: int | None, by: Hand, pair_by: Hand) -> Version:
        secret = self.secrets.get(address)
        current = secret.current if secret is not None else 0
        if cas is not None and cas != current:
            raise ConflictError(f"{address[3]}: check-and-set {cas} did not match the current version {current}")
        if secret is None:
            secret = self.secrets[address] = SecretState(created_at=self.now(), max_versions=self.max_versions)
        number = current + 1
        version = Version(number=number, created_at=self.now(), fields=fields, by=by, pair_by=pair_by)
        secret.versions[number] = version
        secret.current = number
        for old in [n for n in secret.versions if n <= number - secret.max_versions]:
            del secret.versions[old]
        self.ever_named.update(_ids(fields))
        self.reindex(address)
        return version

    def destroy(self, address: Address, versions: Sequence[int]) -> None:
        """Silent about what is not there."""
        secret = self.secrets.get(address)
        for number in versions if secret is not None else ():
            version = secret.versions.get(number) if secret is not None else None
            if version is not None:
                version.destroyed = True
                version.fields = {}
        self.reindex(address)

    def reindex(self, address: Address) -> None:
        self.changed.add(address)
        for key_id in self._indexed.pop(address, ()):
            self.serving[key_id].discard(address)
        secret = self.secrets.get(address)
        served = secret.served if secret is not None else None
        if served is None:
            return
        ids = self._indexed[address] = _ids(served.fields)
        for key_id in ids:
            self.serving.setdefault(key_id, set()).add(address)

    def served(self, place: Place) -> Version | None:
        secret = self.secrets.get(address_of(place))
        return secret.served if secret is not None else None

    def served_pair(self, place: Place) -> tuple[str, str] | None:
        """(access key id, secret access key) as a consumer reads them now."""
        version = self.served(place)
        return None if version is None else pair_in(version.fields, place)


def pair_in(fields: Mapping[str, str], place: Place) -> tuple[str, str] | None:
    key_id, secret = fields.get(place.id_field), fields.get(place.secret_field)
    return (key_id, secret) if key_id and secret else None


def _ids(fields: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(value for value in fields.values() if value.startswith("AKIA"))


class WorldVault:
    """The `Vault` port, and the switches of the server; set the public fields at will."""

    def __init__(self, state: VaultState, points: CallPoints, promises: Promises, own_clock: OwnClock) -> None:
        self.state = state
        self.sealed = False
        self.down = False
        self.denied: set[str] = set()
        """Names of port methods that the token may not do."""
        self.kv_version = 2
        self.token_end: datetime | None = None
        self.mark: Mark | None = None
        self._points = points
        self._promises = promises
        self._own_clock = own_clock

    def seal(self) -> None:
        self.sealed = True

    def unseal(self) -> None:
        self.sealed = False

    # --- reads ----------------------------------------------------------------------------------------------------

    def current(self, place: Place) -> VaultSeen:
        try:
            return self._points.call("vault.current", lambda: self._current(place), {"path": place.path})
        except StoppingError:
            raise
        except Error as error:
            return VaultUnreadable(error.message)

    def history(self, place: Place) -> VaultHistory | None:
        try:
            return self._points.call("vault.history", lambda: self._history(place), {"path": place.path})
        except StoppingError:
            raise
        except Error:
            return None

    def read_pair(self, place: Place, version: int) -> Pair | None:
        args = {"path": place.path, "version": version}
        return self._points.call("vault.read_pair", lambda: self._read_pair(place, version), args)

    def check_writable(self, place: Place) -> None:
        self._points.call("vault.check_writable", lambda: self._check_writable(place), {"path": place.path})

    def token_ends_at(self) -> datetime | None:
        return self._points.call("vault.token_ends_at", lambda: self.token_end, {})

    def token_ends_before(self, needed_until: datetime) -> datetime | None:
        ends_at = self.token_ends_at()
        return ends_at if ends_at is not None and ends_at < needed_until else None

    # --- changes --------------------------------------------------------------------------------------------------

    def publish(
        self, place: Place, pair: Pair, *, cas: int, extra: Mapping[str, str], guard: Guard, give_up_at: datetime
    ) -> tuple[int, datetime]:
        """Tries again after a TemporaryError, each try a call; an injected OutcomeUnknownError reaches the caller."""
        args = {"path": place.path, "cas": cas, "access_key_id": pair.access_key_id}
        ours = {place.id_field: str(pair.access_key_id), place.secret_field: pair.secret_access_key.reveal()}
        if ours.keys() & extra.keys() or BURN_MARKER in extra or len(ours) != 2:
            raise RefusedError(f"vault {place.path}: two fields have the same name")

        def write() -> tuple[int, datetime]:
            return self._publish(place, ours, extra, cas)

        while True:
            try:
                return self._points.call("vault.publish", write, args, guard)
            except TemporaryError as error:
                self._wait_for_server(error, give_up_at)

    def burn(self, place: Place, *, cas: int, guard: Guard) -> int:
        args = {"path": place.path, "cas": cas}
        return self._points.call("vault.burn", lambda: self._burn(place, cas), args, guard)

    def write_note(self, place: Place, note: PublishNote) -> None:
        args = {"path": place.path, "version": note.version, "access_key_id": note.access_key_id}
        self._points.call("vault.write_note", lambda: self._write_note(place, note), args)

    def destroy(self, place: Place, versions: Sequence[int]) -> None:
        args = {"path": place.path, "versions": tuple(versions)}
        self._points.call("vault.destroy", lambda: self._destroy(place, versions), args)

    # --- mark -----------------------------------------------------------------------------------------------------

    def read_mark(self) -> Mark:
        return self._points.call("vault.read_mark", self._read_mark, {})

    def write_mark(self, mark: Mark) -> int:
        return self._points.call("vault.write_mark", lambda: self._write_mark(mark), {"seq": mark.seq})

    # --- effects --------------------------------------------------------------------------------------------------

    def _reach(self, method: str, what: str) -> None:
        if self.down:
            raise TemporaryError(f"vault {what}: cannot connect")
        if self.sealed:
            raise TemporaryError(f"vault {what}: Vault is sealed")
        if method in self.denied:
            raise AccessDeniedError(f"vault {what}: {method} is denied")
        if self.kv_version != 2:
            raise RefusedError(f"vault {what}: the mount is not KV version 2")

    def _current(self, place: Place) -> VaultSeen:
        self._reach("current", place.path)
        secret = self.state.secrets.get(address_of(place))
        if secret is None:
            return VaultAbsent(0)
        secret.read_by_rekeyd = self._promises.tick()
        version = secret.versions.get(secret.current)
        if version is None:
            return VaultAbsent(secret.current)
        if version.destroyed:
            return VaultDestroyed(version.number)
        if version.deleted:
            return VaultDeleted(version.number)
        pair = pair_in(version.fields, place)
        if pair is not None:
            return VaultHeld(
                version=version.number,
                created_at=version.created_at,
                access_key_id=AccessKeyId(pair[0]),
                note=_note_for(secret.note, pair[0], version.number),
            )
        if set(version.fields) == {BURN_MARKER}:
            return VaultAbsent(version.number)
        return VaultWithoutPair(version.number, tuple(sorted(version.fields)))

    def _history(self, place: Place) -> VaultHistory | None:
        self._reach("history", place.path)
        secret = self.state.secrets.get(address_of(place))
        if secret is None or not secret.versions:
            return None
        return VaultHistory(
            created_at=secret.created_at,
            current_version=secret.current,
            oldest_version=min(secret.versions),
            versions=tuple(_seen(version, place) for version in secret.versions.values()),
        )

    def _read_pair(self, place: Place, number: int) -> Pair | None:
        self._reach("read_pair", place.path)
        secret = self.state.secrets.get(address_of(place))
        version = secret.versions.get(number) if secret is not None else None
        if version is None or not version.readable:
            return None
        pair = pair_in(version.fields, place)
        if pair is None:
            return None
        return Pair(access_key_id=AccessKeyId(pair[0]), secret_access_key=Secret(pair[1]))

    def _check_writable(self, place: Place) -> None:
        if self.denied & {"publish", "burn", "check_writable"}:
            raise PreconditionError(f"vault {place.path}: the token lacks the capability update")
        try:
            self._reach("check_writable", place.path)
        except (TemporaryError, RefusedError) as error:
            raise PreconditionError(error.message) from error

    def _wait_for_server(self, error: TemporaryError, give_up_at: datetime) -> None:
        """Nothing was sent so far, and that is what the caller learns when it is over."""
        left = give_up_at - self._own_clock.now()
        if left <= timedelta(0):
            raise error
        self._own_clock.sleep(min(left, _RETRY_EVERY))

    def _publish(
        self, place: Place, ours: Mapping[str, str], extra: Mapping[str, str], cas: int
    ) -> tuple[int, datetime]:
        self._reach("publish", place.path)
        before, after = self._around(place, cas)
        if after is not None:
            if after.readable and ours.items() <= after.fields.items():
                return after.number, after.created_at
            _raise_for_other(place, after)
        if before is not None and not before.readable:
            raise RefusedError(f"vault {place.path}: version {cas} is deleted or destroyed")
        kept = dict(before.fields) if before is not None else {}
        kept.pop(BURN_MARKER, None)
        fields = kept | dict(extra) | dict(ours)
        version = self.state.write(address_of(place), fields, cas=cas, by=Hand.REKEYD, pair_by=Hand.REKEYD)
        self._promises.published(place, AccessKeyId(ours[place.id_field]))
        return version.number, version.created_at

    def _burn(self, place: Place, cas: int) -> int:
        self._reach("burn", place.path)
        before, after = self._around(place, cas)
        if before is None and cas != 0:
            raise ConflictError(f"vault {place.path}: there is no version {cas}")
        if before is not None and not before.readable:
            raise RefusedError(f"vault {place.path}: version {cas} is deleted or destroyed")
        fields = dict(before.fields) if before is not None else {BURN_MARKER: "true"}
        if after is not None:
            if after.readable and after.fields == fields:
                return after.number
            _raise_for_other(place, after)
        pair_by = before.pair_by if before is not None else Hand.REKEYD
        return self.state.write(address_of(place), fields, cas=cas, by=Hand.REKEYD, pair_by=pair_by).number

    def _around(self, place: Place, cas: int) -> tuple[Version | None, Version | None]:
        """Versions cas and cas + 1, as far as they are kept."""
        secret = self.state.secrets.get(address_of(place))
        return (None, None) if secret is None else (secret.versions.get(cas), secret.versions.get(cas + 1))

    def _write_note(self, place: Place, note: PublishNote) -> None:
        self._reach("write_note", place.path)
        secret = self.state.secrets.get(address_of(place))
        if secret is None:
            raise NotFoundError(f"vault {place.path}: there is no metadata to patch")
        secret.note = note

    def _destroy(self, place: Place, versions: Sequence[int]) -> None:
        self._reach("destroy", place.path)
        self._promises.before_vault_destroy(place, versions)
        self.state.destroy(address_of(place), versions)

    def _read_mark(self) -> Mark:
        self._reach("read_mark", "mark")
        return self.mark or Mark(version=0, instance="", incarnation="", seq=0, event_hash="")

    def _write_mark(self, mark: Mark) -> int:
        self._reach("write_mark", "mark")
        current = self.mark.version if self.mark is not None else 0
        if self.mark is not None and replace(mark, version=mark.version + 1) == self.mark:
            return current  # our own earlier request
        if mark.version != current:
            raise ConflictError(f"vault mark: check-and-set {mark.version} did not match the current version {current}")
        self.mark = replace(mark, version=current + 1)
        return current + 1


def _note_for(note: PublishNote | None, key_id: str, number: int) -> PublishNote | None:
    """A note on another key, or on a version that does not exist yet, says nothing."""
    if note is None or note.access_key_id != key_id or note.version > number:
        return None
    return note


def _raise_for_other(place: Place, after: Version) -> NoReturn:
    """Version cas + 1 is there and cannot be told to be ours."""
    if not after.readable:
        raise OutcomeUnknownError(f"vault {place.path}: version {after.number} is gone and may have been ours")
    raise ConflictError(f"vault {place.path}: version {after.number} was written by somebody else")


def _seen(version: Version, place: Place) -> VaultVersion:
    pair = pair_in(version.fields, place) if version.readable else None
    return VaultVersion(
        version=version.number,
        created_at=version.created_at,
        readable=version.readable,
        access_key_id=AccessKeyId(pair[0]) if pair is not None else None,
    )


def consumer_read(vault: WorldVault, place: Place) -> tuple[str, str] | None:
    """None: the secret cannot be read, is deleted, or has no pair."""
    return None if vault.sealed or vault.down else vault.state.served_pair(place)
