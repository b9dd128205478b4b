"""The same Vault seen from both sides: rekeyd's port, and the hand of somebody else.

`OpenBaoStand` is the real adapter on a real server, `WorldStand` the in-memory world; a contract test takes either.
"""

import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import TokenFileAuth, VaultSettings
from rekeyd.core.model import AccessKeyId, Place, PublishNote, RotationId, UserId
from rekeyd.core.secret import Secret
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.ports import Pair, Vault
from tests.secret_registry import write_secret
from tests.world import VirtualClock, World

OLD = AccessKeyId("AKIAOLDOLDOLDOLD0001")
NEW = AccessKeyId("AKIANEWNEWNEWNEW0002")
STRANGE = AccessKeyId("AKIASTRANGESTRAN0003")

_numbers = itertools.count(1)


def secret_of(key_id: str) -> str:
    return f"secretAccessKeyOf/{key_id}/aB3dE5fG7h"


def pair(key_id: AccessKeyId) -> Pair:
    return Pair(access_key_id=key_id, secret_access_key=Secret(secret_of(key_id)))


def fields(key_id: AccessKeyId, **more: str) -> dict[str, str]:
    return {"access_key_id": key_id, "secret_access_key": secret_of(key_id), **more}


def note(version: int, key_id: AccessKeyId = NEW, old: AccessKeyId | None = OLD) -> PublishNote:
    return PublishNote(
        version=version,
        user_id=UserId("AIDAUSERUSERUSER0001"),
        access_key_id=key_id,
        old_access_key_id=old,
        rotation_id=RotationId("7b0c3c52-rotation"),
        published_at=datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC),
    )


def unguarded() -> None:
    """A guard that lets everything pass."""


class SteadyClock(VirtualClock):
    """Sleeps are instant; one that starts at the true time, as the server's clock is compared with it."""

    def in_time(self, seconds: float = 60) -> datetime:
        return self.now() + timedelta(seconds=seconds)


class Stand(Protocol):
    @property
    def vault(self) -> Vault: ...

    @property
    def clock(self) -> VirtualClock: ...

    @property
    def place(self) -> Place: ...

    def put(self, written: Mapping[str, str]) -> int:
        """Somebody writes a version."""

    def fields(self, version: int | None = None) -> Mapping[str, Any] | None:
        """What somebody reads; None: nothing."""

    def soft_delete(self) -> None: ...

    def destroy_current(self) -> None: ...

    def delete_all(self) -> None:
        """All versions and their numbering."""


class WorldStand:
    def __init__(self) -> None:
        self.world = World()
        self.vault: Vault = self.world.vault
        self.clock = self.world.clock
        self.place = self.world.place_of(self.world.user("111122223333", "ci", age=None))

    def put(self, written: Mapping[str, str]) -> int:
        return self.world.operators.write_fields(self.place, written)

    def fields(self, version: int | None = None) -> Mapping[str, Any] | None:
        place = self.place
        state = self.world.vault.state.secrets.get((place.address, place.namespace, place.mount, place.path))
        kept = None if state is None else state.versions.get(state.current if version is None else version)
        return None if kept is None or not kept.readable else kept.fields

    def soft_delete(self) -> None:
        self.world.operators.soft_delete(self.place)

    def destroy_current(self) -> None:
        self.world.operators.destroy(self.place)

    def delete_all(self) -> None:
        self.world.operators.delete_metadata(self.place)


class OpenBaoStand:
    """The adapter, at `address` (the server's own, or a proxy's before it)."""

    def __init__(
        self,
        server: OpenBaoServer,
        mount: str,
        folder: Path,
        *,
        address: str | None = None,
        token: str | None = None,
        timeout: float = 5,
    ) -> None:
        self.server = server
        self.mount = mount
        self.clock = SteadyClock(datetime.now(UTC))  # noqa: TID251 - the server's clock is the machine's
        self.token_file = write_secret(folder / f"token-{next(_numbers)}", token or server.root_token)
        self.settings = VaultSettings(
            address=address or server.address,
            auth=TokenFileAuth(token_file=self.token_file),
            mount=mount,
            state_path="rekeyd/default",
            timeout=timedelta(seconds=timeout),
        )
        self.vault: KvVault = KvVault(self.settings, self.clock)
        self.place = self.place_at("aws/111122223333/ci")

    def place_at(self, path: str, *, address: str | None = None, mount: str | None = None) -> Place:
        return Place(
            address=address or self.settings.address,
            namespace="",
            mount=mount or self.mount,
            path=path,
            id_field="access_key_id",
            secret_field="secret_access_key",
        )

    def publish(self, *, cas: int, key_id: AccessKeyId = NEW, seconds: float = 60) -> int:
        version, _ = self.vault.publish(
            self.place, pair(key_id), cas=cas, extra={}, guard=unguarded, give_up_at=self.clock.in_time(seconds)
        )
        return version

    def put(self, written: Mapping[str, object]) -> int:
        return self.server.write(self.place.path, written, mount=self.mount)

    def fields(self, version: int | None = None) -> Mapping[str, Any] | None:
        found = self.server.read(self.place.path, mount=self.mount, version=version)
        return None if found is None else found.data

    def kv(self, act: Callable[[Any], Any]) -> Any:
        with self.server.client() as client:
            return act(client.secrets.kv.v2)

    def soft_delete(self) -> None:
        self.kv(lambda kv: kv.delete_latest_version_of_secret(self.place.path, mount_point=self.mount))

    def destroy_current(self) -> None:
        found = self.server.read(self.place.path, mount=self.mount)
        assert found is not None
        self.kv(lambda kv: kv.destroy_secret_versions(self.place.path, [found.version], mount_point=self.mount))

    def delete_all(self) -> None:
        self.kv(lambda kv: kv.delete_metadata_and_all_versions(self.place.path, mount_point=self.mount))

    def version(self) -> int:
        """The current version's number, deleted or not; 0: none."""
        metadata = self.metadata()
        return 0 if metadata is None else int(metadata["current_version"])

    def metadata(self) -> Mapping[str, Any] | None:
        with self.server.client() as client:
            answer = client.adapter.get(f"/v1/{self.mount}/metadata/{self.place.path}", raise_exception=False)
        return answer["data"] if isinstance(answer, dict) else None

    def close(self) -> None:
        self.vault.close()
