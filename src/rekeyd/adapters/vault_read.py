"""Reading one version of a KV v2 secret, and telling its six states apart.

A 404 means seven things (facts of OpenBao 2.7 and Vault); only `errors == []` on a mount that is known to be
KV v2 means that nothing was written.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from hvac.api.secrets_engines import KvV2

from rekeyd.adapters.vault_client import VaultClient
from rekeyd.adapters.vault_fields import check_path
from rekeyd.adapters.vault_wire import Answer
from rekeyd.errors import AccessDeniedError, RefusedError

_LONGEST_SECONDS = 1000 * 365 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A secret's path, without the names of its fields."""

    namespace: str
    mount: str
    path: str

    def __post_init__(self) -> None:
        # Before any library sees it: urllib3 collapses dot segments, and the server never learns of them.
        check_path(self.path)
        check_path(self.mount, what="mount")
        if self.namespace:
            check_path(self.namespace, what="namespace")

    @property
    def label(self) -> str:
        where = f"{self.mount}/{self.path}"
        return f"{self.namespace}/{where}" if self.namespace else where


class Life(StrEnum):
    LIVE = "live"
    ABSENT = "absent"
    """No such version: never written, or trimmed."""
    DELETED = "soft-deleted"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    life: Life
    version: int = 0
    created_at: datetime | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    custom_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    created_at: datetime
    current_version: int
    oldest_version: int
    versions: Mapping[int, "VersionLine"]
    custom_metadata: Mapping[str, str]
    revision: int | None
    """`current_metadata_version`, which only OpenBao has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionLine:
    """What the metadata tells of one version."""

    created_at: datetime
    destroyed: bool


class Store:
    """KV v2 mounts, read only."""

    def __init__(self, client: VaultClient) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._checked: set[tuple[str, str]] = set()

    def check_mount(self, target: Target) -> None:
        """RefusedError unless it is KV v2: on version 1 a v2 write succeeds, ignores cas and hides the secret."""
        known = (target.namespace, target.mount)
        with self._lock:
            if known in self._checked:
                return
        url = f"/v1/sys/internal/ui/mounts/{quote(target.mount)}"
        what = f"look up the mount {target.mount}"
        try:
            answer = self.client.read(lambda line: line.get(url), what, namespace=target.namespace)
        except AccessDeniedError as error:
            raise AccessDeniedError(
                f"{what}: not permitted, or there is no such mount",
                hint="check vault.mount and vault.namespace; any permission below the mount is enough for this",
            ) from error
        mount = answer.part("data")
        if not answer.ok or mount is None:
            raise self.client.problem(answer, what, changing=False)
        _check_kv2(mount, target, self.client.address)
        with self._lock:
            self._checked.add(known)

    def stored(self, target: Target, version: int | None = None) -> Stored:
        """`version` None: the current one. Raises TemporaryError or RefusedError when it cannot be told."""
        self.check_mount(target)
        what = f"read {target.label}" if version is None else f"read {target.label} version {version}"
        answer = self.client.read(
            lambda line: KvV2(line).read_secret_version(
                target.path, version=version, mount_point=target.mount, raise_on_deleted_version=True
            ),
            what,
            namespace=target.namespace,
        )
        if not answer.ok:
            return self._gone(answer, what, target)
        found = answer.part("data") or {}
        metadata, fields = found.get("metadata"), found.get("data")
        if not isinstance(metadata, Mapping) or not isinstance(metadata.get("version"), int):
            raise self.client.problem(answer, what, changing=False)
        # A live version can have a deletion_time, in the future (delete_version_after): only missing data is proof.
        if not isinstance(fields, Mapping):
            with self._understood(answer, what):
                return _without_data(metadata)
        with self._understood(answer, what):
            return Stored(
                life=Life.LIVE,
                version=metadata["version"],
                created_at=timestamp(metadata["created_time"]),
                fields=fields,
                custom_metadata=dict(metadata.get("custom_metadata") or {}),
            )

    def metadata(self, target: Target) -> Metadata | None:
        """None: there is nothing under the path. Raises as `stored` does."""
        self.check_mount(target)
        what = f"read the metadata of {target.label}"
        answer = self.client.read(
            lambda line: KvV2(line).read_secret_metadata(target.path, mount_point=target.mount),
            what,
            namespace=target.namespace,
        )
        if answer.status == 404 and answer.errors == ():
            return None
        found = answer.part("data")
        if not answer.ok or found is None or "current_version" not in found:
            raise self.client.problem(answer, what, changing=False)
        with self._understood(answer, what):
            return Metadata(
                created_at=timestamp(found["created_time"]),
                current_version=int(found["current_version"]),
                oldest_version=int(found.get("oldest_version") or 0),
                versions={int(number): _line(one) for number, one in (found.get("versions") or {}).items()},
                custom_metadata=dict(found.get("custom_metadata") or {}),
                revision=found.get("current_metadata_version"),
            )

    def _gone(self, answer: Answer, what: str, target: Target) -> Stored:
        metadata = (answer.part("data") or {}).get("metadata")
        if isinstance(metadata, Mapping) and isinstance(metadata.get("version"), int):
            with self._understood(answer, what):
                return _without_data(metadata)
        if answer.errors == ():
            return Stored(life=Life.ABSENT)
        # The mount may have been replaced since it was looked at.
        with self._lock:
            self._checked.discard((target.namespace, target.mount))
        raise self.client.problem(answer, what, changing=False)

    @contextmanager
    def _understood(self, answer: Answer, what: str) -> Iterator[None]:
        """An answer of another shape than Vault's is none: a proxy or a fault in between may say anything."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.client.problem(answer, what, changing=False) from None


def _line(version: Mapping[str, Any]) -> VersionLine:
    return VersionLine(created_at=timestamp(version["created_time"]), destroyed=bool(version.get("destroyed")))


def _without_data(metadata: Mapping[str, Any]) -> Stored:
    life = Life.DESTROYED if metadata.get("destroyed") else Life.DELETED
    return Stored(life=life, version=metadata["version"], created_at=timestamp(metadata["created_time"]))


def _check_kv2(mount: Mapping[str, Any], target: Target, address: str) -> None:
    name, kind = str(mount.get("path", "")).rstrip("/"), mount.get("type")
    if kind not in {"kv", "generic"}:
        raise RefusedError(
            f"the mount {target.mount} of Vault at {address} is of type {kind}, not kv", hint="check vault.mount"
        )
    if name != target.mount:
        raise RefusedError(
            f"the mount is {name}, not {target.mount}",
            hint=f'set mount = "{name}" and move the rest to the beginning of path',
        )
    if str((mount.get("options") or {}).get("version", "1")) != "2":
        raise RefusedError(
            f"the mount {target.mount} of Vault at {address} is KV version 1, which has no check-and-set and no "
            "versions, so a lost answer or a late request could put an old key over a new one",
            hint=f"use a KV version 2 mount, or upgrade this one: vault kv enable-versioning {target.mount}",
        )


def seconds(value: object) -> int:
    """A time to live; none is 0. Raises ValueError for anything else, and for more than a thousand years."""
    if value is None:
        return 0
    if not isinstance(value, int) or not 0 <= value <= _LONGEST_SECONDS:
        raise ValueError("no number of seconds")
    return value


def timestamp(text: str) -> datetime:
    """Vault's, with nine digits after the point; cut to microseconds. Raises ValueError for anything else."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"no time: {text!r}") from error
