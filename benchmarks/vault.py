"""What a rotation costs at Vault, and how many one OpenBao takes.

    python benchmarks/vault.py            calls and client CPU per rotation, rotations a second

A rotation here is what rekeyd does at Vault from the first look to the record: look, preconditions, check-and-set
write, read back, note; and then a pass that proves the held pair again. AWS and the journal are left out.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth, VaultSettings
from rekeyd.core.model import AccessKeyId, Place, PublishNote, RotationId, UserId, VaultAbsent, VaultHeld
from rekeyd.core.secret import Secret
from rekeyd.demo.emulator.vault_proxy import VaultProxy
from rekeyd.demo.openbao import OpenBaoServer
from rekeyd.ports import Pair

ROTATIONS = 200
POLICY = """
path "secret/data/*"     { capabilities = ["create", "read", "update"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch"] }
path "secret/destroy/*"  { capabilities = ["update"] }
"""


def main() -> None:
    for durable in (False, True):
        with OpenBaoServer(durable=durable) as server, tempfile.TemporaryDirectory() as folder:
            settings = _settings(server, Path(folder))
            print(
                f"OpenBao, {'one raft node' if durable else 'in memory'}, plain http on loopback, {ROTATIONS} rotations"
            )
            _calls(server, settings)
            for threads in (1, 4, 16):
                _speed(settings, threads)


def _settings(server: OpenBaoServer, folder: Path) -> VaultSettings:
    server.write_policy("rekeyd", POLICY)
    role = server.create_app_role("rekeyd", ["rekeyd"], token_ttl="1h")  # noqa: S106 - a duration
    file = folder / "secret_id"
    file.write_text(role.secret_id)
    auth = AppRoleAuth(role_id=role.role_id, secret_id_file=file)
    return VaultSettings(address=server.address, auth=auth, state_path="rekeyd/bench")


def _calls(server: OpenBaoServer, settings: VaultSettings) -> None:
    with VaultProxy(server.address) as proxy:
        vault = KvVault(replace(settings, address=proxy.address), SystemClock())
        _rotate(vault, _place(proxy.address, "counted"), 0)
        before = len(proxy.requests)
        _rotate(vault, _place(proxy.address, "counted"), 1)
        made = Counter(f"{seen.method} {_kind(seen.path)}" for seen in proxy.requests[before:])
        print(f"  calls a rotation: {sum(made.values())}")
        for what, count in made.most_common():
            print(f"    {count} x {what}")
        vault.close()


def _kind(path: str) -> str:
    parts = path.removeprefix("/v1/").split("/")
    return "/".join(parts[:2])


def _speed(settings: VaultSettings, threads: int) -> None:
    vault = KvVault(replace(settings, pool_size=threads), SystemClock())
    vault.read_mark()

    def work(number: int) -> None:
        place = _place(settings.address, f"user-{threads}-{number}")
        for turn in range(ROTATIONS // threads):
            _rotate(vault, place, turn)

    began, cpu = time.perf_counter(), time.process_time()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    done = ROTATIONS // threads * threads
    print(
        f"  {threads:>2} threads: {done / seconds:6.1f} rotations/s, {1000 * seconds * threads / done:6.1f} ms each, "
        f"client CPU {1000 * spent / done:5.1f} ms each"
    )
    vault.close()


def _rotate(vault: KvVault, place: Place, turn: int) -> None:
    seen = vault.current(place)
    cas = seen.version if isinstance(seen, VaultHeld | VaultAbsent) else 0
    vault.check_writable(place)
    vault.token_ends_at()
    key_id = AccessKeyId(f"AKIABENCHMARK{turn:07d}")
    pair = Pair(access_key_id=key_id, secret_access_key=Secret("b" * 40))
    give_up_at = datetime.now(UTC) + timedelta(minutes=1)  # noqa: DTZ005, TID251, RUF100
    vault.publish(place, pair, cas=cas, extra={}, guard=_unguarded, give_up_at=give_up_at)
    held = vault.current(place)
    assert isinstance(held, VaultHeld)
    assert held.access_key_id == key_id
    assert vault.read_pair(place, held.version) is not None
    note = PublishNote(
        version=held.version,
        user_id=UserId("AIDABENCH"),
        access_key_id=key_id,
        old_access_key_id=None,
        rotation_id=RotationId("r"),
        published_at=datetime.now(UTC),  # noqa: TID251
    )
    vault.write_note(place, note)
    # The pass in which the old key is deactivated: one look, one proof.
    assert isinstance(vault.current(place), VaultHeld)
    assert vault.read_pair(place, held.version) is not None


def _place(address: str, name: str) -> Place:
    return Place(
        address=address,
        namespace="",
        mount="secret",
        path=f"aws/{name}",
        id_field="access_key_id",
        secret_field="secret_access_key",  # noqa: S106 - a field name
    )


def _unguarded() -> None:
    """No lease here."""


if __name__ == "__main__":
    main()
