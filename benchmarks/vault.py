"""What a rotation costs at Vault, and how many one OpenBao takes.

    python benchmarks/vault.py            calls by kind and client CPU per rotation, rotations a second

A rotation is the real one: reconciler, journal (in memory) and adapter, from the first look over publication, overlap,
deactivation and quarantine to the deletion of the old key. AWS is the world in memory, whose clock jumps from one due
look to the next; so looks that only watch for drift are not in the figure, and shown by themselves.
"""

import logging
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.adapters.vault_settings import AppRoleAuth, VaultSettings
from rekeyd.core.model import Place, Principal
from rekeyd.core.state import State
from rekeyd.demo.emulator.vault_proxy import VaultProxy
from rekeyd.demo.openbao import OpenBaoServer
from tests.rig import ACCOUNT, Rig, policy
from tests.world import World

ROTATIONS = 48
POLICY = """
path "secret/data/*"     { capabilities = ["create", "read", "update"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch"] }
path "secret/destroy/*"  { capabilities = ["update"] }
"""


class Timed:
    """The adapter, and how much processor time its callers spent in it."""

    def __init__(self, vault: KvVault) -> None:
        self._vault = vault
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._vault, name)
        if not callable(found):
            return found

        def timed(*args: object, **named: object) -> object:
            began = time.thread_time()
            try:
                return found(*args, **named)
            finally:
                self.seconds += time.thread_time() - began

        return timed


class Fleet:
    """Users of one in-memory AWS whose pairs are on the real server; one thread works on it."""

    def __init__(self, server: OpenBaoServer, settings: VaultSettings, name: str) -> None:
        self._server, self._name = server, name
        self.vault = KvVault(replace(settings, state_path=f"rekeyd/{name}"), SystemClock())
        self.timed = Timed(self.vault)

        def place_of(principal: Principal) -> Place:
            return Place(
                address=settings.address,
                namespace="",
                mount="secret",
                path=f"aws/{name}/{principal.user_name}",
                id_field="access_key_id",
                secret_field="secret_access_key",  # noqa: S106 - a field name
            )

        now = datetime.now(UTC)  # noqa: TID251 - the server's clock is the machine's
        self._world = World(start=now, place_of=place_of)
        self._world.vault = self.timed  # type: ignore[assignment]
        self.rig = Rig(policy(), world=self._world)

    def user(self, number: int) -> str:
        """Due for rotation. The other hand's write of its pair is not among the proxy's requests."""
        user_name = f"user-{number}"
        principal = self._world.user(ACCOUNT, user_name, age=timedelta(days=120), held=False)
        key = self._world.keys(ACCOUNT, user_name)[0]
        pair = {"access_key_id": key.id, "secret_access_key": self._world.key(key.id).secret}
        self._server.write(self._world.place_of(principal).path, pair)
        return user_name

    def publish(self, user_name: str) -> None:
        assert self.rig.settle(user_name, until=lambda worked: worked.published).published, self.rig.last

    def finish(self, *user_names: str) -> None:
        """As the daemon does: each user is looked at when its last look said so."""
        due = dict.fromkeys(user_names, self._world.clock.now())
        while due:
            self._world.clock.advance_to(max(min(due.values()), self._world.clock.now()))
            for user_name in [name for name, at in due.items() if at <= self._world.clock.now()]:
                worked = self.rig.look(user_name)
                again = self.rig.again_at(worked)
                assert again is not None, worked
                due[user_name] = again
                if worked.outcome is not None and worked.outcome.state is State.FRESH:
                    del due[user_name]
        assert all(len(self._world.keys(ACCOUNT, name)) == 1 for name in user_names), "the old keys are gone"


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for durable in (False, True):
        with OpenBaoServer(durable=durable) as server, tempfile.TemporaryDirectory() as folder:
            settings = _settings(server, Path(folder))
            print(f"OpenBao, {'one raft node' if durable else 'in memory'}, plain http on loopback")
            if not durable:
                _calls(server, settings)
            for threads in (1, 4):
                _speed(server, settings, threads)


def _settings(server: OpenBaoServer, folder: Path) -> VaultSettings:
    server.write_policy("rekeyd", POLICY)
    # Longer than a rotation on the virtual clock, so that none of the calls is for the token.
    role = server.create_app_role("rekeyd", ["rekeyd"], token_ttl="700h")  # noqa: S106 - a duration
    file = folder / "secret_id"
    file.write_text(role.secret_id)
    auth = AppRoleAuth(role_id=role.role_id, secret_id_file=file)
    return VaultSettings(address=server.address, auth=auth, state_path="rekeyd/bench", pool_size=1)


def _calls(server: OpenBaoServer, settings: VaultSettings) -> None:
    with VaultProxy(server.address) as proxy:
        fleet = Fleet(server, replace(settings, address=proxy.address), "counted")
        # The first rotation of a process also logs in, looks up the mount and makes the mark.
        fleet.publish(fleet.user(0))
        user_name = fleet.user(1)

        def count(what: str, act: Callable[[str], object]) -> int:
            before = len(proxy.requests)
            act(user_name)
            made = Counter(_kind(seen.method, seen.path) for seen in proxy.requests[before:])
            print(f"  {what}: {sum(made.values())} calls")
            for kind, times in made.most_common():
                print(f"    {times:>2} x {kind}")
            return sum(made.values())

        issued = count("until the new pair is published", fleet.publish)
        retired = count("overlap, deactivation, quarantine, deletion", fleet.finish)
        print(f"  a whole rotation: {issued + retired} calls")
        count("one look at a user at rest", fleet.rig.look)
        fleet.vault.close()


def _kind(method: str, path: str) -> str:
    mount, kind, *rest = path.removeprefix("/v1/").split("/")
    return f"{method} {mount}/{kind}" + (" (the mark)" if rest[:1] == ["rekeyd"] else "")


def _speed(server: OpenBaoServer, settings: VaultSettings, threads: int) -> None:
    """A fleet for each thread, so that they share nothing but the server and the interpreter."""
    fleets = [Fleet(server, settings, f"of-{threads}-{number}") for number in range(threads)]
    each = ROTATIONS // threads
    for fleet in fleets:
        fleet.publish(fleet.user(0))
        fleet.timed.seconds = 0.0
    users = [[fleet.user(1 + turn) for turn in range(each)] for fleet in fleets]

    def work(fleet: Fleet, names: list[str]) -> None:
        fleet.finish(*names)

    began = time.perf_counter()
    workers = [threading.Thread(target=work, args=pair) for pair in zip(fleets, users, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began
    done, spent = each * threads, sum(fleet.timed.seconds for fleet in fleets)
    name = "1 thread" if threads == 1 else f"{threads} threads"
    print(
        f"  {name}: {done / seconds:5.1f} whole rotations/s, client CPU in the adapter "
        f"{1000 * spent / done:5.1f} ms each"
    )
    for fleet in fleets:
        fleet.vault.close()


if __name__ == "__main__":
    main()
