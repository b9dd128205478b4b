"""The `Vault` port on KV version 2 of Vault or OpenBao.

Data is only ever written whole, with check-and-set, and both halves of a pair in one version (see vault_write).
Notes go into custom metadata by patch. Secrets that were read to learn an access key ID are dropped at once.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

from hvac.api.secrets_engines import KvV2

from rekeyd.adapters.vault_auth import TokenKeeper, token_keeper
from rekeyd.adapters.vault_client import Line, VaultClient
from rekeyd.adapters.vault_fields import BURN_MARKER
from rekeyd.adapters.vault_health import VaultHealth, health_of
from rekeyd.adapters.vault_note import note_from_metadata, note_to_metadata
from rekeyd.adapters.vault_read import Life, Metadata, Store, Stored, Target
from rekeyd.adapters.vault_settings import VaultSettings, normal_address
from rekeyd.adapters.vault_wire import Answer, Wire
from rekeyd.adapters.vault_write import Landed, Write
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
    TemporaryError,
)
from rekeyd.ports import Clock, Guard, Mark, Pair

_T = TypeVar("_T")

# A burn, a mark and the other small changes are tried this long; publish is told its own limit.
_CHANGE_LIMIT = timedelta(seconds=30)
_REPEAT_DELAYS = tuple(timedelta(seconds=s) for s in (0.2, 0.5, 1.0))

# A secret normally keeps ten versions. A mount with `max_versions` in the thousands must not cost a read each.
_MOST_VERSIONS_READ = 64

# Both "… required for this call" and "… does not match the current version".
_METADATA_CAS = "metadata check-and-set parameter"

_MARK_FIELDS = ("instance", "incarnation", "seq", "event_hash")


class KvVault:
    """`rekeyd.ports.Vault`. One object for all threads."""

    def __init__(self, settings: VaultSettings, clock: Clock, *, before: "KvVault | None" = None) -> None:
        """Opens nothing yet. ConfigError for an address that would be a mistake or a leak.

        `before`: the one that worked until a reload. Its token, opened secret_id and refused logins are taken over.
        """
        wire = Wire(settings)
        self._settings, self._wire = settings, wire
        self._clock = clock
        kept = None if before is None else before.keeper
        self.keeper: TokenKeeper = token_keeper(settings, wire, clock, before=kept)
        self._client = VaultClient(settings, wire=wire, tokens=self.keeper, clock=clock)
        self._store = Store(self._client)
        self._mark_target = Target(namespace=settings.namespace, mount=settings.mount, path=settings.state_path)

    # --- reading ---

    def current(self, place: Place) -> VaultSeen:
        try:
            stored = self._store.stored(self._target(place))
        except (TemporaryError, RefusedError) as error:
            return VaultUnreadable(error.message)
        match stored.life:
            case Life.ABSENT:
                return VaultAbsent(0)
            case Life.DELETED:
                return VaultDeleted(stored.version)
            case Life.DESTROYED:
                return VaultDestroyed(stored.version)
            case Life.LIVE:
                return _seen(stored, place)

    def history(self, place: Place) -> VaultHistory | None:
        try:
            target = self._target(place)
            metadata = self._store.metadata(target)
        except (TemporaryError, RefusedError):
            return None
        if metadata is None or metadata.current_version == 0:
            return None
        numbers = sorted(metadata.versions)[-_MOST_VERSIONS_READ:]
        return VaultHistory(
            created_at=metadata.created_at,
            current_version=metadata.current_version,
            oldest_version=max(metadata.oldest_version, min(numbers, default=0)),
            versions=tuple(self._version(place, target, number, metadata) for number in numbers),
        )

    def _version(self, place: Place, target: Target, number: int, metadata: Metadata) -> VaultVersion:
        line = metadata.versions[number]
        key_id = None
        readable = False
        if not line.destroyed:
            try:
                stored = self._store.stored(target, number)
            except (TemporaryError, RefusedError):
                stored = Stored(life=Life.ABSENT)
            readable = stored.life is Life.LIVE
            pair = _pair(stored.fields, place)
            key_id = None if pair is None else pair.access_key_id
        return VaultVersion(version=number, created_at=line.created_at, readable=readable, access_key_id=key_id)

    def read_pair(self, place: Place, version: int) -> Pair | None:
        stored = self._store.stored(self._target(place), version)
        return _pair(stored.fields, place) if stored.life is Life.LIVE else None

    def check_readable(self, place: Place) -> None:
        """What observing needs. Raises as `check_writable` does."""
        self._check(place, lambda target, _: self._missing(target, _readable(target), noted=None))

    def check_writable(self, place: Place) -> None:
        self._check(place, lambda target, stored: self._missing_to_write(target, absent=stored.life is Life.ABSENT))

    def _check(self, place: Place, missing_at: Callable[[Target, Stored], list[str]]) -> None:
        try:
            target = self._target(place)
            missing = missing_at(target, self._store.stored(target))
        except (TemporaryError, RefusedError, OutcomeUnknownError) as error:
            raise PreconditionError(error.message, hint=error.hint) from error
        if missing:
            raise PreconditionError(
                f"the Vault token lacks {'; '.join(missing)}",
                hint="`rekeyd policy vault` prints the policy that is needed",
            )

    def _missing_to_write(self, target: Target, *, absent: bool) -> list[str]:
        data, metadata, destroy = (f"{target.mount}/{kind}/{target.path}" for kind in ("data", "metadata", "destroy"))
        wanted = {data: ["read", "update"] + ["create"] * absent, metadata: ["read"], destroy: ["update"]}
        return self._missing(target, wanted, noted=metadata)

    def _missing(self, target: Target, wanted: Mapping[str, Sequence[str]], *, noted: str | None) -> list[str]:
        """`noted`: the path where metadata is written, by patch or by update."""
        what = "look up the token's own permissions"
        try:
            answer = self._client.read(
                lambda line: line.post("/v1/sys/capabilities-self", json={"paths": list(wanted)}),
                what,
                namespace=target.namespace,
            )
        except AccessDeniedError as error:
            raise PreconditionError(
                f"{what}: not permitted", hint='grant "update" on sys/capabilities-self, or keep the default policy'
            ) from error
        found = answer.part("data")
        if not answer.ok or found is None:
            raise self._client.problem(answer, what, changing=False)
        missing = []
        for path, verbs in wanted.items():
            held = set(found.get(path) or ())
            lacking = [verb for verb in verbs if verb not in held]
            if path == noted and not held & {"patch", "update"}:
                lacking.append("patch")
            if lacking and "root" not in held:
                missing.append(f"{', '.join(lacking)} on {path}")
        return missing

    def check_mark(self) -> None:
        """PreconditionError unless the high-water mark can be read and written."""
        target = self._mark_target
        try:
            absent = self.read_mark().version == 0
            data = f"{target.mount}/data/{target.path}"
            missing = self._missing(target, {data: ["read", "update"] + ["create"] * absent}, noted=None)
        except (TemporaryError, RefusedError, OutcomeUnknownError) as error:
            raise PreconditionError(error.message, hint=error.hint) from error
        if missing:
            raise PreconditionError(f"the Vault token lacks {'; '.join(missing)}", hint="see `rekeyd policy vault`")

    def health(self) -> VaultHealth:
        """Without a token. Raises TemporaryError or RefusedError."""
        return health_of(self._settings, self._wire)

    # --- the token ---

    def token_ends_at(self) -> datetime | None:
        return self.keeper.ends_at()

    def token_ends_before(self, needed_until: datetime) -> datetime | None:
        return self.keeper.ends_before(needed_until)

    def maintain(self) -> datetime:
        """Look at the token; renew it, or log in again, if it is time to. Returns when to call next at the latest.
        Never raises for Vault's answers: what is wrong shows in `token_problem`."""
        return self.keeper.maintain()

    @property
    def token_problem(self) -> Error | None:
        """Why the last `maintain` did not get what it wanted; None: all is well."""
        return self.keeper.problem

    def close(self) -> None:
        """Revokes a token that rekeyd logged in for. Never raises for Vault's answers."""
        self.keeper.close()
        self._client.close()

    # --- changing ---

    def publish(
        self,
        place: Place,
        pair: Pair,
        *,
        cas: int,
        extra: Mapping[str, str],
        guard: Guard,
        give_up_at: datetime,
    ) -> tuple[int, datetime]:
        ours = {place.id_field: str(pair.access_key_id), place.secret_field: pair.secret_access_key.reveal()}
        if ours.keys() & extra.keys() or BURN_MARKER in extra or len(ours) != 2:
            raise RefusedError("vault.fields: two fields have the same name", hint="give each field its own name")
        target = self._target(place)
        kept = self._patiently(lambda: self._kept_fields(target, cas, ours), give_up_at)
        if isinstance(kept, Landed):
            return kept.version, kept.created_at
        landed = self._write(target, {**kept, **extra, **ours}, cas=cas, guard=guard, give_up_at=give_up_at)
        return landed.version, landed.created_at

    def _kept_fields(self, target: Target, cas: int, ours: Mapping[str, str]) -> Mapping[str, Any] | Landed:
        """Other people's fields of the version that is replaced; Landed: an earlier publish of this pair arrived."""
        if cas == 0:
            self._store.check_mount(target)
            return {}
        before = self._settled(target, cas)
        if before.life is Life.LIVE:
            return {name: value for name, value in before.fields.items() if name != BURN_MARKER}
        # Others went on, or version `cas` was deleted. If an earlier request of ours landed, its pair shows it.
        after = self._settled(target, cas + 1)
        if after.life is Life.LIVE and after.created_at is not None and ours.items() <= after.fields.items():
            return Landed(cas + 1, after.created_at)
        if after.life in {Life.DELETED, Life.DESTROYED}:
            raise OutcomeUnknownError(f"{target.label} version {cas + 1} is {after.life} and may have been ours")
        if after.life is Life.ABSENT and before.life is not Life.ABSENT:
            raise RefusedError(
                f"{target.label} version {cas} is {before.life}",
                hint="undelete it, or delete the secret with all its versions, then rotate again",
            )
        raise ConflictError(f"{target.label} is no longer at version {cas}", hint="it is looked at again")

    def _settled(self, target: Target, version: int) -> Stored:
        """Like `stored`, but an absence is believed only when it lasts: a standby shows new versions late."""
        for delay in _REPEAT_DELAYS:
            stored = self._store.stored(target, version)
            if stored.life is not Life.ABSENT:
                return stored
            self._clock.sleep(delay)
        return self._store.stored(target, version)

    def burn(self, place: Place, *, cas: int, guard: Guard) -> int:
        target = self._target(place)
        give_up_at = self._clock.now() + _CHANGE_LIMIT
        fields: Mapping[str, Any] = {BURN_MARKER: "true"}
        if cas == 0:
            self._store.check_mount(target)
        else:
            before = self._settled(target, cas)
            if before.life is Life.ABSENT:
                raise ConflictError(f"{target.label} is no longer at version {cas}", hint="it is looked at again")
            if before.life is not Life.LIVE:
                raise RefusedError(
                    f"{target.label} version {cas} is {before.life} and cannot be moved on unchanged",
                    hint="undelete it, or delete the secret with all its versions",
                )
            fields = before.fields
        return self._write(target, fields, cas=cas, guard=guard, give_up_at=give_up_at).version

    def write_note(self, place: Place, note: PublishNote) -> None:
        target = self._target(place)
        entries = note_to_metadata(note)
        self._store.check_mount(target)
        what = f"patch the metadata of {target.label}"
        answer = self._patched(target, {"custom_metadata": entries}, what)
        for _ in _REPEAT_DELAYS:
            if not answer.says(_METADATA_CAS):
                break
            # OpenBao alone asks for it (`metadata_cas_required`). A lost answer shows as a number that no longer fits,
            # and the same entries are sent again.
            revision = self._revision(target)
            answer = self._patched(target, {"custom_metadata": entries, "metadata_cas": revision}, what)
        if answer.ok:
            return
        if answer.status == 404:
            raise NotFoundError(f"{what}: there is no such secret", hint="it is looked at again")
        if answer.status == 400:
            raise self._client.problem(answer, what, changing=True)
        self._note_without_patch(target, entries)

    def _patched(self, target: Target, body: Mapping[str, Any], what: str) -> Answer:
        return self._repeated(
            lambda line: line.request(
                "PATCH",
                f"/v1/{quote(target.mount)}/metadata/{quote(target.path)}",
                headers={"Content-Type": "application/merge-patch+json"},
                json=body,
            ),
            what,
            target,
            accept=(400, 404, 403, 405, 415),
        )

    def _revision(self, target: Target) -> int | None:
        metadata = self._store.metadata(target)
        return None if metadata is None else metadata.revision

    def _note_without_patch(self, target: Target, entries: Mapping[str, str | None]) -> None:
        """For a token without the capability, or a server without the verb. A POST replaces the whole map of custom
        metadata and, since nothing else is sent, leaves the secret's other settings as they are."""
        metadata = self._store.metadata(target)
        if metadata is None:
            raise NotFoundError(f"{target.label}: there is no such secret", hint="it is looked at again")
        merged = {**metadata.custom_metadata, **entries}
        body: dict[str, Any] = {"custom_metadata": {name: value for name, value in merged.items() if value is not None}}
        if metadata.revision is not None:
            body["metadata_cas"] = metadata.revision
        self._repeated(
            lambda line: line.post(f"/v1/{quote(target.mount)}/metadata/{quote(target.path)}", json=body),
            f"write the metadata of {target.label}",
            target,
        )

    def destroy(self, place: Place, versions: Sequence[int]) -> None:
        if not versions:
            return
        target = self._target(place)
        self._store.check_mount(target)
        self._repeated(
            lambda line: KvV2(line).destroy_secret_versions(target.path, list(versions), mount_point=target.mount),
            f"destroy versions {', '.join(map(str, versions))} of {target.label}",
            target,
        )

    # --- the mark ---

    def read_mark(self) -> Mark:
        """Version 0 and empty fields when there is none. Raises TemporaryError or RefusedError."""
        target = self._mark_target
        stored = self._store.stored(target)
        if stored.life is Life.ABSENT:
            return Mark(version=0, instance="", incarnation="", seq=0, event_hash="")
        fields = stored.fields
        texts = {name: fields.get(name) for name in _MARK_FIELDS}
        if stored.life is not Life.LIVE or not all(isinstance(text, str) for text in texts.values()):
            why = f"is {stored.life}" if stored.life is not Life.LIVE else "is not a mark of rekeyd"
            raise RefusedError(
                f"the high-water mark {target.label} version {stored.version} {why}",
                hint="restore it (undelete, or roll back to the version before); deleting the secret with all its "
                "versions makes a new mark, and all clocks start again",
            )
        seq = str(texts["seq"])
        if not (seq.isascii() and seq.isdigit()):
            raise RefusedError(f"the high-water mark {target.label} has no number in seq", hint="roll it back")
        return Mark(
            version=stored.version,
            instance=str(texts["instance"]),
            incarnation=str(texts["incarnation"]),
            seq=int(seq),
            event_hash=str(texts["event_hash"]),
        )

    def write_mark(self, mark: Mark) -> int:
        fields = {
            "instance": mark.instance,
            "incarnation": mark.incarnation,
            "seq": str(mark.seq),
            "event_hash": mark.event_hash,
        }
        self._store.check_mount(self._mark_target)
        give_up_at = self._clock.now() + _CHANGE_LIMIT
        return self._write(self._mark_target, fields, cas=mark.version, guard=None, give_up_at=give_up_at).version

    # --- below ---

    def _target(self, place: Place) -> Target:
        """RefusedError for a place on another server, BadPathError for one that would be escaped from."""
        if normal_address(place.address) != self._client.address:
            raise RefusedError(
                f"{place.mount}/{place.path} lies in Vault at {place.address}, and rekeyd is connected to "
                f"{self._client.address}",
                hint="`rekeyd move` copies a pair to a new place",
            )
        return Target(namespace=place.namespace.strip("/"), mount=place.mount.strip("/"), path=place.path)

    def _write(
        self, target: Target, fields: Mapping[str, Any], *, cas: int, guard: Guard | None, give_up_at: datetime
    ) -> Landed:
        return Write(self._store, self._clock, target, fields, cas=cas, guard=guard, give_up_at=give_up_at).run()

    def _patiently(self, look: Callable[[], _T], give_up_at: datetime) -> _T:
        """Before anything is sent: a key with a secret only in memory is not given up for an election of a leader."""
        while True:
            try:
                return look()
            except TemporaryError:
                if self._clock.now() + _REPEAT_DELAYS[-1] >= give_up_at:
                    raise
            self._clock.sleep(_REPEAT_DELAYS[-1])

    def _repeated(
        self, act: Callable[[Line], Answer], what: str, target: Target, *, accept: Sequence[int] = ()
    ) -> Answer:
        """A change that may safely happen twice. Returns a success or an accepted status."""
        last: Error | None = None
        for delay in (*_REPEAT_DELAYS, None):
            try:
                answer = self._client.once(act, namespace=target.namespace)
            except (TemporaryError, OutcomeUnknownError) as error:
                last = _worse(last, error)
            else:
                if answer.ok or answer.status in accept:
                    self._client.wrote(answer)
                    return answer
                problem = self._client.problem(answer, what, changing=True)
                if not isinstance(problem, TemporaryError | OutcomeUnknownError):
                    raise problem
                last = _worse(last, problem)
            if delay is not None:
                self._clock.sleep(delay)
        assert last is not None  # noqa: S101 - every round either returned or failed
        raise last


def _readable(target: Target) -> Mapping[str, Sequence[str]]:
    return {f"{target.mount}/{kind}/{target.path}": ["read"] for kind in ("data", "metadata")}


def _worse(last: Error | None, error: Error) -> Error:
    """Once an answer was lost, no later failure is proof that nothing happened."""
    return last if isinstance(last, OutcomeUnknownError) else error


def _seen(stored: Stored, place: Place) -> VaultSeen:
    assert stored.created_at is not None  # noqa: S101 - a live version has one
    if set(stored.fields) == {BURN_MARKER}:
        return VaultAbsent(stored.version)
    pair = _pair(stored.fields, place)
    if pair is None:
        return VaultWithoutPair(stored.version, tuple(sorted(stored.fields)))
    note = note_from_metadata(stored.custom_metadata)
    if note is not None and (note.access_key_id != pair.access_key_id or note.version > stored.version):
        note = None
    return VaultHeld(version=stored.version, created_at=stored.created_at, access_key_id=pair.access_key_id, note=note)


def _pair(fields: Mapping[str, Any], place: Place) -> Pair | None:
    key_id, secret = fields.get(place.id_field), fields.get(place.secret_field)
    if not (isinstance(key_id, str) and isinstance(secret, str) and key_id and secret):
        return None
    return Pair(access_key_id=AccessKeyId(key_id), secret_access_key=Secret(secret))
