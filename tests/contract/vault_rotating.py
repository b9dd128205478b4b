"""A user in the in-memory AWS whose pair is on a real server, and rekeyd's rules and journal between them.

The adapter, the TLS and the servers are real; time is the machine's for Vault, and virtual for AWS.
"""

import itertools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.vault_kv import KvVault
from rekeyd.core.model import Place, Principal, VaultHeld
from rekeyd.demo.openbao import StoredSecret
from rekeyd.errors import Error
from rekeyd.fleet.account import Worked
from rekeyd.fleet.alarms import AlarmKeeper, Scope
from rekeyd.fleet.vault import look_of
from rekeyd.ports import Alarm
from tests.contract.vault_cluster import Logins
from tests.rig import ACCOUNT, Rig, policy
from tests.world import REGION, World

_numbers = itertools.count(1)

# Of the machine's time: a standby that was unsealed refuses every token for a moment.
_PATIENCE_SECONDS = 20


class AheadClock(SystemClock):
    """The machine's; a test may be later, so that it need not wait until rekeyd tries a login again."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead = timedelta()
        self.hurries = False
        """Whether a sleep passes at once."""

    def sleep(self, duration: timedelta) -> None:
        if self.hurries:
            self.advance(duration)
        else:
            super().sleep(duration)

    def now(self) -> datetime:
        return super().now() + self._ahead

    def advance(self, by: timedelta) -> None:
        self._ahead += by


class Rotating:
    """A user due for rotation, whose pair is on the real server."""

    def __init__(self, logins: Logins, method: str, *, timeout: float = 5) -> None:
        self.logins = logins
        if method == "kubernetes":
            logins.await_kubernetes()
        settings = logins.settings(method, timeout=timeout)
        self.clock = AheadClock()
        self.vault = KvVault(settings, self.clock)
        self.struck = False
        """Whether what `when` was told has happened."""
        self.user_name = f"ci-{next(_numbers)}"

        def place_of(principal: Principal) -> Place:
            return Place(
                address=settings.address,
                namespace="",
                mount="secret",
                path=f"aws/{principal.user_name}",
                id_field="access_key_id",
                secret_field="secret_access_key",
            )

        now = datetime.now(UTC)  # noqa: TID251 - the servers' clock is the machine's
        self.world = World(start=now, place_of=place_of, seed=next(_numbers))
        self.principal = self.world.user(ACCOUNT, self.user_name, age=timedelta(days=120), held=False)
        self.place = place_of(self.principal)
        self.old = self.world.keys(ACCOUNT, self.user_name)[0].id
        self.world.vault = self.vault  # type: ignore[assignment]
        self.put(self.old)
        self.rig = Rig(policy(), world=self.world)

    def put(self, key_id: str) -> None:
        pair = {"access_key_id": key_id, "secret_access_key": self.world.key(key_id).secret}
        self.logins.admin.write(self.place.path, pair)

    def rotate(self) -> Worked:
        """Until the new key is published; virtual time passes between tries, as back-offs say.

        A user who was refused, since Vault could not be read, is looked at again as at the next scan.
        """
        ends = time.monotonic() + _PATIENCE_SECONDS
        while True:
            worked = self.rig.settle(self.user_name, until=lambda worked: worked.published)
            if worked.published or time.monotonic() > ends:
                return worked
            threading.Event().wait(0.2)

    def serves(self) -> tuple[int, str]:
        """What a consumer reads; it must be of one pair and alive (P1)."""
        found = self.logins.admin.read(self.place.path)
        assert found is not None
        return found.version, self._is_alive(found)

    def _is_alive(self, found: StoredSecret) -> str:
        key_id, secret = str(found.data["access_key_id"]), str(found.data["secret_access_key"])
        assert self.world.key(key_id).secret == secret
        assert not isinstance(self.world.aws.authenticate(key_id, secret, REGION), str)
        return key_id

    def never_served_a_dead_key(self) -> None:
        """Every version that ever was current is of one pair, which AWS accepts still: nothing was retired here."""
        latest, _ = self.serves()
        for version in range(1, latest + 1):
            found = self.logins.admin.read(self.place.path, version=version)
            assert found is not None
            self._is_alive(found)

    def is_rotated(self, *, versions: int = 2) -> None:
        version, key_id = self.serves()
        assert (version, key_id != self.old) == (versions, True), "exactly one version was written"
        keys = [key.id for key in self.world.keys(ACCOUNT, self.user_name)]
        assert keys == [self.old, key_id], "no key was left behind"
        self.never_served_a_dead_key()
        assert isinstance(self.vault.current(self.place), VaultHeld)

    def is_untouched(self) -> None:
        assert self.serves() == (1, self.old)
        assert [key.id for key in self.world.keys(ACCOUNT, self.user_name)] == [self.old]

    def told(self) -> list[Alarm]:
        """The alarms that stand after the daemon's look at the token."""
        self.vault.maintain()
        look = look_of(self.vault.token_problem)
        keeper = AlarmKeeper(journal=self.rig.port, clock=self.world.clock, repeat_every=timedelta(hours=4))
        keeper.update(Scope.vault(), look.findings, undecided=look.undecided)
        return [alarm for alarm in keeper.open_alarms() if Scope.vault().covers(alarm)]

    def close(self) -> None:
        self.vault.close()

    def when(self, point: str, act: Callable[[], object], *, phase: str = "after") -> None:
        """Once, at this call of the rotation."""

        def hook(name: str, at: str, _: object) -> None:
            if (name, at) == (point, phase):
                stop()
                self.struck = True
                act()

        stop = self.world.points.on_call(hook)

    def error(self) -> Error:
        """Of one try that must fail, without harm: consumers are served as before, and no key is left behind."""
        worked = self.rig.look(self.user_name)
        assert worked.error is not None
        self.is_untouched()
        return worked.error
