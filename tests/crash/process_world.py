"""The installed program in a world that can kill it at any of its outside calls.

    with crash_world(bao, folder, mount="crash1") as world:
        world.start_daemon()
        life = world.begin(BY_NAME["rotate"])
        world.kill_at(Moment(call=Call("iam", "CreateAccessKey", "user"), nth=1, when="after"), life)
        world.bring_to_rest(life)
        assert life.wrongs == []

One world serves many lives, one after the other: the daemon that was started again after a kill is the one that the
next kill hits. A consumer of each life reads Vault directly and never stops.
"""

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from rekeyd.demo.consumer import Arguments, Consumer
from rekeyd.demo.emulator import HUB, Answer, Delays, EmulatedAws, Rule, SeenRequest, VaultProxy
from rekeyd.demo.emulator import Call as Calling
from rekeyd.demo.emulator.faults import Cut, Effect, Incident, escape
from rekeyd.demo.openbao import OpenBaoServer
from tests.acceptance.stand import Running, Stand, eventually
from tests.crash.process_lives import CYCLES, Call, Cycle, Life, Moment, When
from tests.secret_registry import remember

BYSTANDER = "bystander"
STRAY_OWNER = "owner-of-a-stray"
_UNTOUCHED = (BYSTANDER, STRAY_OWNER)
# Two cores shared by several such worlds; a life that is not disturbed takes three seconds.
REST_LIMIT_SECONDS = 60.0
_LATE_SECONDS = 2.0
_KILL_LIMIT_SECONDS = 10.0
_CONSUMER_INTERVAL_SECONDS = 0.1
_OPERATION = "rekeyd-op/"
VERIFY_TIMEOUT_SECONDS = 20
_PACE: dict[str, object] = {
    "overlap": "0.5s",
    "quarantine": "0.5s",
    "verify_probes": 1,
    "verify_spacing": "0.1s",
    "max_age": "90d",
    "unused_for": "0s",
    "verify_first": "0s",
    "verify_timeout": f"{VERIFY_TIMEOUT_SECONDS}s",
    "publish_timeout": "10s",
}
# AWS as it is, but in seconds: a pair that is published before it was proven fails its consumer, who polls faster than
# a new key is honoured; a list that is older than our own change, but not older than `aws.settle`, shows what was.
SLOW = Delays(
    propagation=timedelta(seconds=0.5),
    revocation=timedelta(seconds=0.3),
    list_lag=timedelta(seconds=0.3),
    cloudtrail_lag=timedelta(seconds=1),
    signature_age=timedelta(minutes=15),
)
_SETTLE = "0.5s"
_ORPHANS = '[orphans]\nwait = "20s"\nquarantine = "1s"'


@dataclass(frozen=True, slots=True)
class KillAll:
    """SIGKILL to every process of the program in this world, as a host that goes down."""

    world: "CrashWorld"
    life: Life

    def apply(self, incident: Incident) -> Answer | None:
        for running in self.world.programs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)
        for running in self.world.programs():
            _await_death(running)
        incident.rule.hit.set()
        if incident.rule.when == "answered":
            return None
        return Answer(status=0, headers=(), body=b"", cut=Cut.DROPPED)


class CrashWorld:
    """A stand whose program reaches Vault through a proxy, and a daemon that is started again whenever it is gone."""

    def __init__(self, stand: Stand, vault: VaultProxy) -> None:
        self.stand = stand
        self.vault = vault
        self.daemon: Running | None = None
        self.starts = 0
        self._others: list[Running] = []
        self._numbers = 0
        self._lives: list[Life] = []
        self.broken: list[str] = []
        """What a rule saw of broken promises."""
        self._untouched: dict[str, list[tuple[str, str]]] = {}
        stand.environment["REKEYD_VAULT__ADDRESS"] = vault.address
        # Successive lives are different users to the brake; it is proven elsewhere.
        stand.environment["REKEYD_FLEET__BRAKE_RETRY"] = "2s"
        if "PYTHONPATH" in os.environ:
            stand.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]

    # -- the program

    def write_config(self, *, scan_every: str = "1s", settle: str = _SETTLE, extra: str = _ORPHANS) -> None:
        own = [
            {"name": cycle.name, "match": {"users": [f"{cycle.name}-*"]}, **_PACE, **cycle.policy}
            for cycle in CYCLES
            if cycle.policy
        ]
        rest = {"name": "default", "exclude": {"users": ["rekeyd", BYSTANDER]}, **_PACE}
        self.stand.write_config(policies=[*own, rest], scan_every=scan_every, settle=settle, extra=extra)

    def start_daemon(self, *, ready: bool = False) -> Running:
        self.starts += 1
        self.daemon = self.stand.start("run")
        if ready:
            self.daemon.wait_for_event("daemon.became_ready")
        return self.daemon

    def command(self, life: Life, *arguments: str) -> None:
        """A person's command for this user; killed with everything else."""
        life.command = self.stand.start(*arguments)
        self._others = [life.command]

    def programs(self) -> list[Running]:
        """Those that run."""
        known = [*self._others, *([] if self.daemon is None else [self.daemon])]
        return [running for running in known if running.process.poll() is None]

    def close(self) -> None:
        for life in self._lives:
            self._stop_consumer(life)
        if self.daemon is not None:
            self.daemon.stop(signal.SIGKILL)

    # -- the world

    def seed_others(self) -> None:
        """Users whose keys are nobody's business: one in no policy, and one with a stray key beside the held one."""
        stand = self.stand
        first = stand.user(BYSTANDER)
        stand.aws.add_key(HUB, BYSTANDER, age=timedelta(days=300), active=False)
        second = stand.user(STRAY_OWNER)
        stand.aws.add_key(HUB, STRAY_OWNER, age=timedelta(days=2))
        for user in (first, second):
            self._untouched[user.name] = self._shown(user.name)

    def _shown(self, name: str) -> list[tuple[str, str]]:
        return [(key.access_key_id, key.status) for key in self.stand.aws.keys(HUB, name)]

    # -- one life

    def begin(self, cycle: Cycle) -> Life:
        """The user as the cycle wants it, a consumer at work, and everything from now on counted."""
        self._numbers += 1
        life = Life(cycle=cycle, user_name=f"{cycle.name}-{self._numbers}")
        self._lives.append(life)
        # Before anything is there, so that no moment is missed.
        self._start_consumer(life)
        cycle.prepare(self, life)
        life.aws_from, life.vault_from = len(self.stand.aws.requests), len(self.vault.requests)
        return life

    def kill_at(self, moment: Moment, life: Life, *, after: Rule | None = None) -> Rule:
        """To be made before the cycle begins; `after` that rule has fired, if given."""
        return self.fault(moment.call, life, do=KillAll(self, life), when=moment.when, nth=moment.nth, after=after)

    def fault(
        self,
        call: Call,
        life: Life,
        *,
        do: Effect,
        when: When,
        nth: int = 1,
        times: int | None = 1,
        after: Rule | None = None,
    ) -> Rule:
        """A rule for calls of this life; it ends with it. `times` None: until cancelled."""
        faulty, op, user = self._address(call, life)

        def where(seen: SeenRequest) -> bool:
            return seen.user_agent != "consumer" and (after is None or after.hit.is_set())

        rule = faulty.fault(
            op, do=do, when=when, nth=nth, times=times or 1, forever=times is None, user=user, where=where
        )
        life.rules.append(rule)
        return rule

    def _address(self, call: Call, life: Life) -> tuple[EmulatedAws | VaultProxy, str, str | None]:
        if call.service != "vault":
            user = life.user_name if call.about == "user" else "rekeyd"
            return self.stand.aws, f"{call.service}:{call.op}", user
        path = call.op.replace("{mount}", self.stand.mount).replace("{user}", self.stand.vault_path(life.user_name))
        return self.vault, escape(path.replace("{mark}", f"rekeyd/{self.stand.instance}")), None

    def bring_to_rest(
        self,
        life: Life,
        *,
        limit: float = REST_LIMIT_SECONDS,
        mend_after: float | None = None,
        deliver: bool = False,
    ) -> None:
        """Starts the daemon again whenever it was killed, and asks nobody for help; then checks everything.

        After `mend_after` seconds the life's faults are lifted (None: they end by themselves); only then it can be
        at rest. `deliver`: what was held back arrives two seconds after it was sent.
        """
        began = time.monotonic()
        while mend_after is not None or not self.at_rest(life):
            passed = time.monotonic() - began
            if mend_after is not None and passed > mend_after:
                mend_after = None
                for rule in life.rules:
                    rule.cancel()
            if deliver and passed > _LATE_SECONDS:
                self._deliver(life)
            self._restart_if_killed(life)
            if passed > limit:
                life.wrongs.append(f"no rest after {limit:.0f} s: {self._words(life)}")
                break
            time.sleep(0.1)
        if deliver:
            self._deliver(life)
        life.seconds = time.monotonic() - began
        for rule in life.rules:
            rule.cancel()
        for rule in life.rules:
            if rule.fired:
                # Its call may be on its way still: a kill belongs to this life, not to the next one's beginning.
                rule.hit.wait(_KILL_LIMIT_SECONDS)
            life.struck += rule.fired
        self.judge(life)

    def _restart_if_killed(self, life: Life) -> None:
        if self.daemon is not None and self.daemon.process.poll() is None:
            return
        expected = (-signal.SIGKILL, 0) if life.may_end else (-signal.SIGKILL,)
        if self.daemon is not None and self.daemon.process.returncode not in expected:
            life.wrongs.append(f"the daemon ended with {self.daemon.process.returncode}")
        self.start_daemon()

    @staticmethod
    def _deliver(life: Life) -> None:
        for rule in life.rules:
            rule.deliver()

    def end(self, life: Life) -> None:
        """The user goes, so that the next life has the daemon to itself."""
        self._stop_consumer(life)
        self._lives.remove(life)
        self.stand.aws.delete_user(HUB, life.user_name)

    def at_rest(self, life: Life) -> bool:
        """One key, Active and held, and the daemon says that the user is fresh. A rollback, also one that reactivates,
        rests when the first key is held again: how the other one retires is the rotation's own cycle."""
        entry = self.entry(life)
        if entry is None or self._asked(life):
            return False
        statuses = {key.access_key_id: key.status for key in self.stand.aws.keys(HUB, life.user_name)}
        held = entry.get("held_access_key_id")
        if statuses.get(str(held)) != "Active" or self.stand.held_id(life.user_name) != held:
            return False
        if life.cycle.name in ("rollback", "reactivate"):
            back = held == life.first_key or self._never_asked(life)
            return back and entry.get("state") in ("overlap", "quarantine")
        return (
            entry.get("state") == "fresh" and len(statuses) == 1 and (held != life.first_key or self._never_asked(life))
        )

    @staticmethod
    def _never_asked(life: Life) -> bool:
        """The person's command was killed, or said that it failed: the person knows that the wish may not have come as
        far as the journal. (One that did come so far is seen by `_asked`.)"""
        return life.command is not None and life.command.process.poll() not in (None, 0)

    def _asked(self, life: Life) -> bool:
        """Whether the journal holds a wish of a person for this user that is not answered."""
        if life.command is None:
            return False
        with contextlib.closing(sqlite3.connect(f"file:{self.stand.journal}?mode=ro", uri=True)) as journal:
            query = "SELECT count(*) FROM request WHERE user_name = ? AND answer IS NULL"
            (count,) = journal.execute(query, (life.user_name,)).fetchone()
        return bool(count)

    def entry(self, life: Life) -> dict[str, object] | None:
        """The user in the daemon's status; None while it does not answer or does not know the user."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.stand.http_port}/api/v1/status", timeout=10) as answer:
                document = json.load(answer)
        except (OSError, ValueError, http.client.HTTPException):
            # Not there, or killed while it answered.
            return None
        found = [entry for entry in document["principals"] if entry["user_name"] == life.user_name]
        return found[0] if found else None

    def _words(self, life: Life) -> str:
        keys = ", ".join(f"{key.access_key_id[-4:]} {key.status}" for key in self.stand.aws.keys(HUB, life.user_name))
        held = str(self.stand.held_id(life.user_name))[-4:]
        entry = self.entry(life) or {}
        said = f"{entry.get('state')} ({entry.get('reason')}: {entry.get('message')})"
        tail = "" if self.daemon is None else self.daemon.err[-1500:]
        return f"keys [{keys}], held {held}, status {said}\n{tail}"

    # -- what must hold

    def requests(self, life: Life) -> list[SeenRequest]:
        """All calls since the life began, in order of arrival."""
        seen = [*self.stand.aws.requests[life.aws_from :], *self.vault.requests[life.vault_from :]]
        return sorted(seen, key=lambda request: request.at)

    def calls(self, life: Life) -> list[Call]:
        """Their kinds; those of other users left out."""
        kinds = (self._kind(seen, life) for seen in self.requests(life))
        return [kind for kind in kinds if kind is not None]

    def _kind(self, seen: SeenRequest, life: Life) -> Call | None:
        if seen.service != "vault":
            if seen.user_name == life.user_name:
                # The consumer's own.
                return None if seen.user_agent == "consumer" else Call(seen.service, seen.op, "user")
            return Call(seen.service, seen.op, "self") if seen.user_name == "rekeyd" else None
        path, mark = self.stand.vault_path(life.user_name), f"rekeyd/{self.stand.instance}"
        op = seen.op.replace(f" {self.stand.mount}/", " {mount}/").replace(f"/{self.stand.mount}", "/{mount}")
        if op.endswith(f"/{path}"):
            return Call("vault", op.removesuffix(path) + "{user}", "user")
        if op.endswith(f"/{mark}"):
            return Call("vault", op.removesuffix(mark) + "{mark}", "mark")
        return None if "/aws/" in op else Call("vault", op, "self")

    def judge(self, life: Life) -> None:
        """Adds to its wrongs whatever does not hold now."""
        stand, name = self.stand, life.user_name
        if not stand.serves_a_live_pair(name):
            life.wrongs.append("P1: what Vault serves is not an Active key of the user with its own secret")
        for other, before in self._untouched.items():
            if self._shown(other) != before:
                life.wrongs.append(f"P5: a key of {other} was touched")
        operations: Counter[str] = Counter()
        for seen in stand.aws.calls("CreateAccessKey"):
            if _OPERATION in seen.user_agent:
                operations[seen.user_agent.partition(_OPERATION)[2].split()[0]] += 1
            else:
                life.wrongs.append("a CreateAccessKey without the name of its operation")
        life.wrongs += [f"CreateAccessKey was sent {n} times for {op}" for op, n in operations.items() if n > 1]
        life.wrongs += [f"P5: {seen.op} of {seen.user_name}" for seen in self._changes_of_others(life)]
        self._judge_consumer(life)

    def _changes_of_others(self, life: Life) -> list[SeenRequest]:
        changes = [seen for seen in self.requests(life) if seen.op.endswith("AccessKey") and seen.service == "iam"]
        return [seen for seen in changes if seen.user_name in (*_UNTOUCHED, "rekeyd")]

    def guard_keys(self) -> None:
        """From now on every key that is deactivated or deleted is held against what Vault serves at that moment."""

        def look(seen: SeenRequest) -> None:
            if seen.user_name is None or seen.access_key_id is None or seen.user_name.startswith(BYSTANDER):
                return
            status = self.stand.aws.key(seen.access_key_id).status
            if status != "Active" and self.stand.held_id(seen.user_name) == seen.access_key_id:
                self.broken.append(f"P2: {seen.op} made the held key of {seen.user_name} {status}")

        def look_before(seen: SeenRequest) -> None:
            if seen.access_key_id is None:
                return
            if self.stand.aws.key(seen.access_key_id).status == "Active":
                versions = self._versions_naming(seen.user_name, seen.access_key_id)
                if versions:
                    self.broken.append(f"P3: {seen.access_key_id} was published and is deleted while Active")

        for op in ("UpdateAccessKey", "DeleteAccessKey"):
            self.stand.aws.fault(op, do=Calling(look), when="after", forever=True)
        self.stand.aws.fault("DeleteAccessKey", do=Calling(look_before), forever=True)

    def _versions_naming(self, user_name: str | None, key_id: str) -> list[int]:
        if user_name is None:
            return []
        path, found = self.stand.vault_path(user_name), []
        current = self.stand.bao.read(path, mount=self.stand.mount)
        for version in range(1, (0 if current is None else current.version) + 1):
            secret = self.stand.bao.read(path, mount=self.stand.mount, version=version)
            if secret is not None and secret.data.get("access_key_id") == key_id:
                found.append(version)
        return found

    # -- its consumer

    def _start_consumer(self, life: Life) -> None:
        folder = self.stand.folder
        life.failures = folder / f"{life.user_name}.failures"
        life.consumer = Consumer(
            Arguments(
                vault_addr=self.stand.bao.address,
                token_file=self.stand.token_file,
                paths=(f"{self.stand.mount}/data/{self.stand.vault_path(life.user_name)}",),
                sts_endpoint=self.stand.aws.url,
                region=self.stand.aws.region,
                interval=_CONSUMER_INTERVAL_SECONDS,
                status=folder / f"{life.user_name}.status",
                failures=life.failures,
                id_field="access_key_id",
                secret_field="secret_access_key",
            )
        )
        life.consumer_thread = threading.Thread(target=life.consumer.run, daemon=True)
        life.consumer_thread.start()

    def _judge_consumer(self, life: Life) -> None:
        assert life.consumer is not None
        assert life.failures is not None
        (counters,) = life.consumer.counters.values()
        held = self.stand.held_id(life.user_name)
        with contextlib.suppress(AssertionError):
            eventually(lambda: held in counters.key_ids, "the consumer's use of the held key", limit=5)
        life.polls = counters.calls
        lines = life.failures.read_text().splitlines() if life.failures.exists() else []
        failed = [line for line in map(json.loads, lines) if line["access_key_id"] not in life.expected_dead]
        if failed:
            life.wrongs.append(f"P1: a consumer failed {len(failed)} times, first: {failed[0]}")
        if held not in counters.key_ids:
            life.wrongs.append("the consumer never saw the key that is held at the end")

    def _stop_consumer(self, life: Life) -> None:
        if life.consumer is not None and life.consumer_thread is not None:
            life.consumer.stop()
            life.consumer_thread.join(timeout=30)


def _await_death(running: Running) -> None:
    deadline = time.monotonic() + _KILL_LIMIT_SECONDS
    while running.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


@contextlib.contextmanager
def crash_world(bao: OpenBaoServer, folder: Path, *, mount: str) -> Iterator[CrashWorld]:
    """`bao` runs; the KV mount is made here, as are the users nobody may touch. No daemon runs yet."""
    bao.enable_kv(mount)
    with EmulatedAws(on_secret=remember, delays=replace(SLOW)) as aws, VaultProxy(bao.address) as vault:
        stand = Stand(aws=aws, bao=bao, folder=folder, mount=mount)
        world = CrashWorld(stand, vault)
        world.write_config()
        world.seed_others()
        world.guard_keys()
        try:
            yield world
        finally:
            world.close()
            stand.close()
