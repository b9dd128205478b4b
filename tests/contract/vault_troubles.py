"""What fails around a rotation on Vault as it is run: a table of troubles, played on any server with any login.

A cell is a trouble on one server with one login. Each ends the same way: no secret is lost, no key is left behind, no
version that was ever served holds a dead key; and the user is rotated without a person, or the alarm says what a
person must do, and once that is done nothing more is needed.
"""

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rekeyd.core.model import VaultHeld, VaultUnreadable
from rekeyd.errors import Error
from tests.contract.vault_broken_logins import BREAKS, Break
from tests.contract.vault_cluster import METHODS, Cluster, Logins, TlsOpenBao, production
from tests.contract.vault_rotating import Rotating

SERVERS = ("dev", "raft", "cluster")
_LETTERS = dict(zip(METHODS, "TAKJC", strict=True))
_UNSEAL = "unseal it"
CREATED, PROVEN = "iam.create_access_key", "sts.prove"


class Stage:
    """A server or a cluster (through a standby) with every login set up; what breaks is whole again for the next."""

    def __init__(self, kind: str, logins: Logins, cluster: Cluster | None) -> None:
        self.kind, self.logins, self.cluster = kind, logins, cluster
        # One thread for the whole stage: a server ends with the thread that started it.
        self._hand = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    @property
    def server(self) -> TlsOpenBao:
        """The one that rekeyd speaks to."""
        return self.logins.entry

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        def wait() -> None:
            threading.Event().wait(seconds)
            act()

        self._pending.append(self._hand.submit(wait))

    def follow(self) -> None:
        """Everything that was to happen later has happened; the hand of an operator is at the leader."""
        self._await_pending()
        if self.cluster is not None:
            self.logins.admin = self.cluster.leader

    def _await_pending(self) -> None:
        while self._pending:
            self._pending.pop().result(timeout=60)

    def heal(self) -> None:
        self._await_pending()
        if self.cluster is None:
            self.server.heal()
        else:
            self.cluster.heal()
            self.logins.admin, self.logins.entry = self.cluster.leader, self.cluster.standby

    def close(self) -> None:
        self._hand.shutdown()

    # --- what an operator or fate does ---

    def seal(self) -> None:
        """The server that rekeyd speaks to; a standby cannot be sealed, it comes up sealed."""
        if self.cluster is None:
            return self.server.seal()
        self.server.kill()
        return self.server.restart(unseal=False)

    def fill_audit_disk(self, *, full: bool) -> None:
        (self.cluster or self.server).fill_audit_disk(full=full)

    @property
    def others(self) -> list[TlsOpenBao]:
        assert self.cluster is not None
        return [node for node in self.cluster.nodes if node is not self.logins.entry]

    def lose_quorum(self) -> None:
        for node in self.others:
            node.kill()

    def restore_quorum(self) -> None:
        for node in self.others:
            node.restart()


@contextmanager
def staged(kind: str, folder: Path) -> Iterator[Stage]:
    with production(kind, folder) as (logins, cluster):
        stage = Stage(kind, logins, cluster)
        yield stage
        stage.close()


@dataclass(slots=True)
class Scene:
    stage: Stage
    method: str
    _stack: ExitStack = field(default_factory=ExitStack)

    def user(self, *, timeout: float = 5) -> Rotating:
        """Due for rotation; rekeyd has not logged in yet."""
        rotating = Rotating(self.stage.logins, self.method, timeout=timeout)
        self._stack.callback(rotating.close)
        return rotating

    def at_end(self, act: Callable[..., object], *args: object, **named: object) -> None:
        self._stack.callback(act, *args, **named)

    def close(self) -> None:
        self._stack.close()


Play = Callable[[Scene], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    name: str
    play: Play
    logins: Sequence[str] = METHODS
    servers: Sequence[str] = SERVERS
    person: str = ""
    """What a person must do, and is told; empty: nothing."""
    quick: str = ""
    """The logins, by letter, with which it belongs to `make test` too."""
    quick_on: Sequence[str] = ("raft",)

    def is_quick(self, server: str, login: str) -> bool:
        return server in self.quick_on and _LETTERS[login] in self.quick


# --- the plays -------------------------------------------------------------------------------------------------------


def rotates(scene: Scene) -> None:
    user = scene.user()
    user.rotate()
    user.is_rotated()


def midway(act: Callable[[Scene], object], point: str = CREATED) -> Play:
    """In the middle of a rotation; it ends by itself with exactly one version."""

    def play(scene: Scene) -> None:
        user = scene.user()
        user.when(point, lambda: act(scene))
        user.rotate()
        assert user.struck
        scene.stage.follow()
        user.is_rotated()

    return play


def beforehand(act: Callable[[Scene], object], undo: Callable[[Scene], object], says: str, *, person: str = "") -> Play:
    """Nothing is begun, it is said why, and once it is over the rotation needs nobody."""

    def play(scene: Scene) -> None:
        user = scene.user(timeout=1)
        user.clock.hurries = True
        act(scene)
        worked = user.rig.look(user.user_name)
        assert worked.outcome is not None
        assert worked.outcome.rest.reason == "vault_unreadable"
        seen = user.vault.current(user.place)
        assert isinstance(seen, VaultUnreadable)
        user.vault.maintain()
        assert re.search(says, f"{seen.detail} {user.vault.token_problem}")
        if person:
            _tells(user, person)
        undo(scene)
        user.clock.hurries = False
        scene.stage.follow()
        user.is_untouched()
        user.rotate()
        user.is_rotated()

    return play


def _tells(user: Rotating, person: str) -> None:
    """The alarm says what a person must do."""
    (alarm,) = user.told()
    assert (alarm.reason, alarm.severity) == ("vault_unreachable", "high")
    assert person in alarm.remedy, alarm.remedy


def _logged_in(scene: Scene) -> Rotating:
    user = scene.user()
    # A standby may learn of what another cell mended a moment later.
    _is_well_again(user)
    assert isinstance(user.vault.current(user.place), VaultHeld)
    return user


def idle_and_sealed(scene: Scene) -> None:
    """Nobody asks anything of Vault, whose token would be good for an hour."""
    user = _logged_in(scene)
    token = user.vault.keeper.token()
    scene.stage.seal()
    _tells(user, _UNSEAL)
    scene.stage.server.unseal()
    scene.stage.follow()
    _is_well_again(user)
    # A standby that was unsealed refuses every token for a moment, which is told from a dead one by a login.
    assert user.vault.keeper.token() == token or scene.stage.cluster is not None
    user.rotate()
    user.is_rotated()


def idle_and_revoked(scene: Scene) -> None:
    user = _logged_in(scene)
    token = user.vault.keeper.token()
    _revoke(scene)
    assert user.told() == []
    assert user.vault.keeper.token() != token, "the daemon's look alone put another in its place"
    user.rotate()
    user.is_rotated()


def _then(seconds: float, act: Callable[[Stage], object], undo: Callable[[Stage], object]) -> Callable[[Scene], None]:
    def both(scene: Scene) -> None:
        act(scene.stage)
        scene.stage.later(seconds, lambda: undo(scene.stage))

    return both


def _kill_leader(scene: Scene) -> None:
    assert scene.stage.cluster is not None
    scene.stage.cluster.leader.kill()


def _seal_leader(scene: Scene) -> None:
    assert scene.stage.cluster is not None
    scene.stage.cluster.leader.seal()


def _revoke(scene: Scene) -> None:
    """By an operator; a token in a file is replaced by the agent that keeps it."""
    logins = scene.stage.logins
    if scene.method != "token_file":
        logins.revoke_tokens_of(scene.method)
        return
    logins.revoke_token_of_file()
    logins.new_token()


def limited(scene: Scene) -> None:
    user = scene.user()
    with scene.stage.logins.admin.client() as client:
        quota = "/v1/sys/quotas/rate-limit/tight"
        client.adapter.post(quota, json={"path": "secret", "rate": 4, "interval": "1s"})
        began = time.monotonic()
        try:
            user.rotate()
        finally:
            client.adapter.delete(quota)
    assert time.monotonic() - began > 1, "it was slowed"
    user.is_rotated()


# --- logins that are refused ---


def _problem(user: Rotating, broken: Break) -> None:
    problem: Error | None = user.vault.token_problem
    assert problem is not None
    for text in broken.says:
        assert text in problem.message, problem.message
    assert broken.do in str(problem.hint), problem.hint
    _tells(user, broken.do)


def _is_well_again(user: Rotating) -> None:
    """By the daemon's own chore alone, whenever it asks to be called again, and the alarm ends."""
    ends = time.monotonic() + 40
    user.clock.advance(timedelta(seconds=6))
    while True:
        next_at = user.vault.maintain()
        if user.vault.token_problem is None:
            assert user.told() == []
            return
        assert time.monotonic() < ends, user.vault.token_problem
        user.clock.advance(next_at - user.clock.now())
        # A standby learns of the mending a moment later.
        threading.Event().wait(0.5)


def refused_beforehand(broken: Break) -> Play:
    def play(scene: Scene) -> None:
        user = scene.user()
        with broken.broken(scene.stage.logins) as mend:
            user.rig.look(user.user_name)
            user.is_untouched()
            user.vault.maintain()
            _problem(user, broken)
            mend()
            _is_well_again(user)
        user.rotate()
        user.is_rotated()

    return play


def refused_midway(broken: Break) -> Play:
    """The token dies with it: the new key, of which nothing was sent to Vault, is taken back."""

    def play(scene: Scene) -> None:
        user = scene.user()
        logins = scene.stage.logins
        with ExitStack() as stack:
            mends: list[Callable[[], object]] = []

            def act() -> None:
                mends.append(stack.enter_context(broken.broken(logins)))
                if scene.method != "token_file":
                    logins.revoke_tokens_of(scene.method)

            user.when(CREATED, act)
            error = user.error()
            assert "no permission in Vault" in error.message
            user.vault.maintain()
            _problem(user, broken)
            mends.pop()()
            _is_well_again(user)
        user.rotate()
        user.is_rotated()

    return play


def refused_later(broken: Break) -> Play:
    """The token that rekeyd has lives on: the rotation ends whole; the next login is what fails."""

    def play(scene: Scene) -> None:
        user = scene.user()
        logins = scene.stage.logins
        with ExitStack() as stack:
            mends: list[Callable[[], object]] = []
            user.when(CREATED, lambda: mends.append(stack.enter_context(broken.broken(logins))))
            user.rotate()
            user.is_rotated()
            logins.revoke_tokens_of(scene.method)
            assert isinstance(user.vault.current(user.place), VaultUnreadable)
            _problem(user, broken)
            user.vault.maintain()
            _problem(user, broken)
            mends.pop()()
            _is_well_again(user)
        assert isinstance(user.vault.current(user.place), VaultHeld)
        user.is_rotated()

    return play


def _refused() -> Iterator[Trouble]:
    for name, breaks in itertools.groupby(BREAKS, key=lambda broken: broken.name):
        same = {broken.method: broken for broken in breaks}

        def playing(make: Callable[[Break], Play], same: dict[str, Break] = same) -> Play:
            return lambda scene: make(same[scene.method])(scene)

        person = next(iter(same.values())).person
        letters = "".join(_LETTERS[method] for method in same)
        about: dict[str, Any] = {"logins": tuple(same), "person": person, "quick": letters}
        yield Trouble(name=f"{name}, beforehand", play=playing(refused_beforehand), **about)
        yield Trouble(name=f"{name}, token dead, mid-rotation", play=playing(refused_midway), **about)
        if "token_file" not in same:
            about["quick"] = letters[:1]
            yield Trouble(name=f"{name}, token alive, mid-rotation", play=playing(refused_later), **about)


# --- the table -------------------------------------------------------------------------------------------------------

_NO_ANSWER = r"(Vault at \S+|the login to Vault by \w+ was) (answered|gave no answer)"
TROUBLES: tuple[Trouble, ...] = (
    Trouble(name="none: a rotation works", play=rotates, quick="TAKJC", quick_on=("dev", "raft")),
    Trouble(
        name="sealed mid-rotation, and unsealed",
        play=midway(_then(1, Stage.seal, lambda stage: stage.server.unseal())),
        person=_UNSEAL,
        quick="AC",
        quick_on=("dev", "raft"),
    ),
    Trouble(
        name="sealed beforehand",
        play=beforehand(lambda s: s.stage.seal(), lambda s: s.stage.server.unseal(), "sealed", person=_UNSEAL),
        person=_UNSEAL,
        quick="TJ",
    ),
    Trouble(
        name="sealed after a login, idle",
        play=idle_and_sealed,
        person=_UNSEAL,
        quick="TAKJC",
        quick_on=("dev",),
    ),
    Trouble(name="token revoked after a login, idle", play=idle_and_revoked, quick="TAKJC", quick_on=("dev",)),
    Trouble(
        name="leader sealed mid-rotation",
        play=midway(_seal_leader),
        servers=("cluster",),
    ),
    Trouble(
        name="server killed mid-rotation, and started",
        play=midway(_then(0.5, lambda stage: stage.server.kill(), lambda stage: stage.server.restart())),
        servers=("raft", "cluster"),
        quick="AK",
    ),
    Trouble(
        name="leader killed after create",
        play=midway(_kill_leader),
        servers=("cluster",),
    ),
    Trouble(
        name="leader killed before the write",
        play=midway(_kill_leader, PROVEN),
        servers=("cluster",),
    ),
    Trouble(
        name="quorum lost mid-rotation, and back",
        play=midway(_then(1.5, Stage.lose_quorum, Stage.restore_quorum)),
        servers=("cluster",),
    ),
    Trouble(
        name="quorum lost beforehand",
        play=beforehand(
            lambda s: s.stage.lose_quorum(),
            lambda s: s.stage.restore_quorum(),
            _NO_ANSWER,
        ),
        servers=("cluster",),
        person="bring the nodes back",
    ),
    Trouble(name="token revoked mid-rotation", play=midway(_revoke), quick="TAKJC"),
    Trouble(
        name="audit disk full mid-rotation, and free",
        play=midway(_then(1, lambda s: s.fill_audit_disk(full=True), lambda s: s.fill_audit_disk(full=False)), PROVEN),
        quick="AT",
    ),
    Trouble(name="rate-limit quota", play=limited, quick="AJ"),
    *_refused(),
)


def cells(*servers: str) -> list[Any]:
    """Parameters of a test: trouble, server, login."""
    return list(_cells(servers))


def _cells(servers: Sequence[str]) -> Iterator[Any]:
    for trouble in TROUBLES:
        for server in servers:
            for login in trouble.logins:
                if server not in trouble.servers:
                    continue
                marks = [] if trouble.is_quick(server, login) else [pytest.mark.cluster]
                yield pytest.param(trouble, server, login, id=f"{trouble.name}-{server}-{login}", marks=marks)


def play(trouble: Trouble, stage: Stage, login: str) -> None:
    scene = Scene(stage, login)
    try:
        trouble.play(scene)
    finally:
        scene.close()
        stage.heal()
        if login == "approle":
            stage.logins.renew_approle()


def table(verdicts: dict[tuple[str, str, str], bool], seconds: float) -> Iterator[str]:
    """Lines for people. `verdicts`: (trouble, server, login) to whether it held."""
    held = sum(verdicts.values())
    yield f"{len(verdicts)} cells, {held} held, {len(verdicts) - held} failed, {seconds:.0f} s"
    yield "logins: " + ", ".join(f"{letter} {method}" for method, letter in _LETTERS.items()) + "; failed: (T)"
    width = max(len(trouble.name) for trouble in TROUBLES)
    yield f"{'':{width}}  " + "  ".join(f"{server:<9}" for server in SERVERS) + "  a person must"
    for trouble in TROUBLES:
        columns = []
        for server in SERVERS:
            shown = [
                letter if verdicts[trouble.name, server, login] else f"({letter})"
                for login, letter in _LETTERS.items()
                if (trouble.name, server, login) in verdicts
            ]
            columns.append(f"{' '.join(shown) or '-':<9}")
        yield f"{trouble.name:{width}}  {'  '.join(columns)}  {trouble.person}".rstrip()
