"""An AWS and a Vault in memory, on a virtual clock, that keep the outside's own rules and watch rekeyd's promises.

    world = World(seed=1)
    user = world.user("111122223333", "ci", age=timedelta(days=100))   # one key, served by Vault
    world.cloud, world.vault, world.own_clock                          # the ports, for rekeyd
    world.operators.deactivate(key_id)                                 # the admin hand
    world.fault("iam.create_access_key", when="after", error=lost("create"))
    world.check_promises()

The same seed and the same calls give the same world.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from rekeyd.core.model import AccessKey, AccessKeyId, AccountId, KeyStatus, Place, Principal
from rekeyd.core.policy import Policy
from rekeyd.core.secret import Secret
from rekeyd.ports import Pair
from tests.world.aws import AccountState, Aws, Hand, KeyState, Lags, UserState
from tests.world.clock import START, OwnClock, VirtualClock
from tests.world.iam import WorldCloud, WorldSts, report_now
from tests.world.operators import Operators
from tests.world.points import Call, CallPoints, Crash, Failure, Fault, Hook, Phase, lost
from tests.world.promises import Promises
from tests.world.vault import VaultState, WorldVault, consumer_read

__all__ = [
    "START",
    "AccountState",
    "Call",
    "Consumer",
    "Crash",
    "Fault",
    "Hand",
    "Lags",
    "VirtualClock",
    "World",
    "lost",
]

REGION = "eu-central-1"
ACCOUNT = "111122223333"


def default_place(principal: Principal) -> Place:
    return Place(
        address="https://vault.example:8200",
        namespace="",
        mount="secret",
        path=f"aws/{principal.account_id}/{principal.user_name}",
        id_field="access_key_id",
        secret_field="secret_access_key",
    )


class World:
    """`lags` may be changed while it runs; `keep_calls=False` keeps only `counts`, for long simulations."""

    def __init__(
        self,
        *,
        seed: int = 0,
        start: datetime = START,
        lags: Lags | None = None,
        region: str = REGION,
        place_of: Callable[[Principal], Place] = default_place,
        keep_calls: bool = True,
    ) -> None:
        self.clock = VirtualClock(start)
        self.own_clock = OwnClock(self.clock)
        """rekeyd's: `own_clock.offset` sets it wrong, and AWS then refuses its signatures."""
        self.lags = lags if lags is not None else Lags()
        self.region = region
        self.place_of = place_of
        self.aws = Aws(self.clock, seed, self.lags, callers=self.own_clock)
        self.points = CallPoints(self.clock, keep_calls=keep_calls)
        store = VaultState(self.clock)
        self.promises = Promises(self.aws, store, region)
        self.vault = WorldVault(store, self.points, self.promises, self.own_clock)
        self.sts = WorldSts(self.aws, self.points, self.promises, region)
        self.cloud = WorldCloud(self.aws, self.points, self.promises, self.sts)
        self.operators = Operators(self.aws, store, self.promises)
        self._setup = Operators(self.aws, store, self.promises)
        self._setup.hand = Hand.SETUP

    # --- setting up -----------------------------------------------------------------------------------------------

    def account(self, account_id: str = ACCOUNT, *, partition: str = "aws", alias: str | None = None) -> AccountState:
        """Made at the first call; afterwards the same, with its switches."""
        known = self.aws.accounts.get(AccountId(account_id))
        return known if known is not None else self.aws.add_account(account_id, partition=partition, alias=alias)

    def user(
        self,
        account_id: str,
        user_name: str,
        *,
        age: timedelta | None = timedelta(days=1),
        held: bool = True,
        path: str = "/",
        tags: Mapping[str, str] | None = None,
    ) -> Principal:
        """With one Active key of that age (None: no key), which Vault serves if `held`; managed from now on."""
        self.account(account_id)
        principal = self._setup.create_user(account_id, user_name, path=path, tags=tags)
        place = self.manage(principal)
        if age is not None:
            pair = self._setup.add_key(account_id, user_name, age=age)
            if held:
                self._setup.write_pair(place, pair)
        return principal

    def manage(
        self, principal: Principal, *, place: Place | None = None, regions: tuple[str, ...] | None = None
    ) -> Place:
        """`check_promises` asks that what this place serves is good, in these Regions (None: the world's)."""
        where = place if place is not None else self.place_of(principal)
        self.promises.managed[principal.account_id, principal.user_id] = (where, regions or (self.region,))
        return where

    def place(self, account_id: str, user_name: str) -> Place:
        """Where this user's pair is expected."""
        principal = self.state(account_id, user_name).principal
        managed = self.promises.managed.get((principal.account_id, principal.user_id))
        return managed[0] if managed is not None else self.place_of(principal)

    def make_report(self, account_id: str) -> None:
        """Somebody else has IAM make the credential report, which everybody is given for the next four hours."""
        account = self.aws.account(account_id)
        account.report = report_now(self.aws, account)

    # --- looking, without being rekeyd ------------------------------------------------------------------------------

    def state(self, account_id: str, user_name: str) -> UserState:
        """NotFoundError when there is no such user."""
        return self.aws.user(account_id, user_name)

    def keys(self, account_id: str, user_name: str) -> tuple[AccessKey, ...]:
        """The truth, without list lag; oldest first."""
        keys = self.state(account_id, user_name).keys.values()
        return tuple(AccessKey(id=key.id, status=key.status, created_at=key.created_at) for key in keys)

    def key(self, key_id: str) -> KeyState:
        """Deleted ones too."""
        return self.aws.keys[AccessKeyId(key_id)]

    def pair(self, key_id: str) -> Pair:
        key = self.key(key_id)
        return Pair(access_key_id=key.id, secret_access_key=Secret(key.secret))

    def held_id(self, account_id: str, user_name: str) -> AccessKeyId | None:
        """The key that Vault serves for this user now."""
        pair = self.vault.state.served_pair(self.place(account_id, user_name))
        return AccessKeyId(pair[0]) if pair is not None else None

    def active_keys(self, account_id: str, user_name: str) -> int:
        keys = self.state(account_id, user_name).keys.values()
        return sum(key.status is KeyStatus.ACTIVE for key in keys)

    # --- consumers ------------------------------------------------------------------------------------------------

    def consumer(self, account_id: str, user_name: str, *, service: str = "s3", region: str | None = None) -> bool:
        """Reads what Vault serves now and calls AWS with it; whether AWS accepted it."""
        return Consumer(self, self.place(account_id, user_name)).call(service=service, region=region)

    def slow_consumer(self, account_id: str, user_name: str) -> "Consumer":
        """One that has read Vault once and keeps what it read until `refresh()`."""
        consumer = Consumer(self, self.place(account_id, user_name))
        consumer.refresh()
        return consumer

    def use_key(self, key_id: str, *, service: str = "s3", region: str | None = None) -> bool:
        """Somebody who has this pair signs with it; whether AWS accepted it."""
        return self._sign(key_id, self.key(key_id).secret, service=service, region=region)

    def _sign(self, key_id: str, secret: str, *, service: str, region: str | None) -> bool:
        where = region or self.region
        answer = self.aws.authenticate(key_id, secret, where)
        if isinstance(answer, str):
            return False
        self.aws.record_use(answer, service=service, region=where)
        return True

    # --- faults ---------------------------------------------------------------------------------------------------

    def fault(
        self,
        point: str,
        *,
        error: Failure,
        when: Phase = "before",
        nth: int = 1,
        times: int | None = 1,
        where: Callable[[Mapping[str, object]], bool] | None = None,
    ) -> Fault:
        """The nth matching call from now on (and `times - 1` more; None: all later ones) raises `error`.

        `point`: a call point or a glob (`iam.create_access_key`, `vault.*`); `where` looks at the call's args;
        `error`: an exception, or what makes one; `when`: whether the other side acted first.
        """
        return self.points.fault(point, error=error, when=when, nth=nth, times=times, where=where)

    def late(
        self,
        point: str,
        *,
        delay: timedelta,
        nth: int = 1,
        error: Failure | None = None,
        where: Callable[[Mapping[str, object]], bool] | None = None,
    ) -> Fault:
        """The nth matching call gets no answer (`error`, else OutcomeUnknownError), and lands `delay` later.

        AWS refuses a signature that arrives more than 15 minutes late; Vault does not mind.
        """
        failure = error if error is not None else lost(point)
        return self.points.fault(point, error=failure, nth=nth, delay=delay, where=where)

    def on_call(self, hook: Hook) -> Callable[[], None]:
        """`hook(name, "before" | "after", args)` at every port call; returns what takes it away again."""
        return self.points.on_call(hook)

    @property
    def calls(self) -> list[Call]:
        return self.points.calls

    @property
    def counts(self) -> Counter[str]:
        return self.points.counts

    # --- promises -------------------------------------------------------------------------------------------------

    def follow(self, policy_of: Callable[[Principal], Policy | None]) -> None:
        """From now on P3 asks for the quarantine of the policy, and P5 knows what the policy allows."""
        self.promises.policy_of = policy_of

    def allow(self, key_id: str) -> None:
        """A person named this key (`--replace`): rekeyd may act on it although another hand made it."""
        self.promises.allowed.add(AccessKeyId(key_id))

    def waive_quarantine(self, key_id: str) -> None:
        """A person waived it (`--emergency`)."""
        self.promises.waived.add(AccessKeyId(key_id))

    @property
    def violations(self) -> list[str]:
        """What rekeyd's calls have broken so far."""
        return self.promises.violations

    def check_promises(self) -> None:
        """AssertionError naming every broken promise."""
        self.promises.check()

    def check_changed(self) -> None:
        """Notes in `violations` what the last changes have broken; for every call of a long simulation."""
        self.promises.check_changed()


class Consumer:
    """A program that uses a managed pair."""

    def __init__(self, world: World, place: Place) -> None:
        self.place = place
        self._world = world
        self._pair: tuple[str, str] | None = None

    @property
    def access_key_id(self) -> str | None:
        return self._pair[0] if self._pair is not None else None

    def refresh(self) -> bool:
        """Reads Vault; keeps what it has when there is nothing to read."""
        pair = consumer_read(self._world.vault, self.place)
        self._pair = pair if pair is not None else self._pair
        return pair is not None

    def call(self, *, service: str = "s3", region: str | None = None) -> bool:
        """Whether AWS accepted it; without a pair it reads Vault first."""
        if self._pair is None and not self.refresh():
            return False
        assert self._pair is not None
        return self._world._sign(*self._pair, service=service, region=region)
