"""The acts of the demo, in order. Each ends when what it waits for is seen, never by the clock alone.

1. programs start to use their pairs
2. a rotate-now is killed between AWS and Vault
3. the daemon starts, cleans up and rotates who is due
4. a person asks for an adoption, then for an emergency
5. everybody comes to rest
"""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rekeyd.demo.cast import ASKED, CAST, COPIED, CRASHED, HACKED, Actor, End, Start
from rekeyd.demo.emulator import Kill
from rekeyd.demo.processes import Processes
from rekeyd.demo.stage import COPY_PATH, Stage
from rekeyd.demo.watch import Sight, Watch

# The whole demo. It takes 50 s on an idle machine with two cores, 90 s on one with ten busy processes a core.
LIMIT_SECONDS = 140.0
_POLL_SECONDS = 0.1
# How long the daemon has nothing to do in the end: a step too many would show.
_QUIET_SECONDS = 3.0

# As the installed script does it, wherever that lies.
_PROGRAM = ("-c", "from rekeyd.cli.main import main; main()")

COPY_NAME = f"{COPIED.name} (copy)"


class DemoError(Exception):
    """The story cannot go on; the message says what did not happen."""


class Narrator(Protocol):
    def say(self, text: str) -> None:
        """One line of the story."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command that a person could have typed, and how it ended."""

    command: str
    code: int
    out: str = field(repr=False)

    @property
    def document(self) -> dict[str, Any]:
        """Empty when it printed none."""
        try:
            found = json.loads(self.out)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(slots=True, kw_only=True)
class Story:
    stage: Stage
    processes: Processes
    watch: Watch
    narrator: Narrator
    limit_seconds: float = LIMIT_SECONDS
    orphan: str | None = None
    """The access key ID that the killed rotate-now left behind."""
    asked: Ran | None = None
    emergency: Ran | None = None
    daemon: "subprocess.Popen[str] | None" = None

    def tell(self) -> None:
        """Raises DemoError when something that must happen does not."""
        self._programs_start()
        self._crash()
        self._daemon_starts()
        self._person_asks()
        self._all_come_to_rest()

    # -- acts

    def _programs_start(self) -> None:
        stage = self.stage
        for actor in CAST:
            if actor.consumed:
                self._consume(actor.name, f"secret/data/{actor.vault_path}")
        self._consume(COPY_NAME, f"secret/data/{COPY_PATH}")
        served = [actor.name for actor in CAST if actor.consumed and actor.start is not Start.NOT_IN_VAULT]
        self._until("the consumers work", lambda sight: all(sight.consumers[name].calls > 0 for name in served))
        count = len(consumer_names())
        self.narrator.say(f"{count} programs read their pairs from Vault and use them, {stage.bao.address}")

    def _crash(self) -> None:
        """kill -9 right after AWS has made the key: nobody but AWS knows that it exists."""
        name, victims = CRASHED.name, list[int]()
        rule = self.stage.aws.fault("CreateAccessKey", user=name, when="after", do=Kill(lambda: victims[0]))
        self.narrator.say(f"$ rekeyd rotate-now {name}    (and kill -9 as soon as AWS has made the key)")
        process = self._rekeyd("rotate-now", name, log=f"rotate-now-{name}.log")
        victims.append(process.pid)
        self._until("rotate-now asks for a key", lambda _: rule.hit.is_set() or process.poll() is not None)
        code = process.wait(timeout=20)
        made = self.stage.aws.calls("CreateAccessKey", user=name)
        if not made or made[0].created_access_key_id is None:
            raise DemoError(f"rotate-now {name} ended with {code} before it asked for a key")
        self.orphan = made[0].created_access_key_id
        self.narrator.say(f"killed: {self.orphan} exists in AWS, and its secret is lost")

    def _daemon_starts(self) -> None:
        self.narrator.say("$ rekeyd run")
        self.daemon = self._rekeyd("run", log="daemon.log")
        due = [actor for actor in CAST if actor.rotates and actor not in (CRASHED, ASKED, HACKED)]
        self._until(
            "the daemon publishes new pairs",
            lambda sight: all(sight.has_event("key.published", actor.name) for actor in due),
        )

    def _person_asks(self) -> None:
        self.asked = self.rekeyd("rotate-now", ASKED.name, "--json")
        self.emergency = self.rekeyd("rotate-now", HACKED.name, "--emergency", "--yes", "--json")

    def _all_come_to_rest(self) -> None:
        self._until("all come to rest", lambda sight: all(self.at_rest(actor, sight) for actor in CAST))
        self.narrator.say("everybody is at rest")
        ends = time.monotonic() + _QUIET_SECONDS
        while time.monotonic() < ends:
            time.sleep(_POLL_SECONDS)

    # -- what is true

    def at_rest(self, actor: Actor, sight: Sight) -> bool:
        """Whether the user's keys, and what rekeyd says of it, are what they must be in the end."""
        return not self.wrong_with(actor, sight)

    def wrong_with(self, actor: Actor, sight: Sight) -> str | None:
        """What is not as it must be in the end; None: nothing."""
        status = sight.statuses.get(actor.name)
        if actor.state is None:
            if status is not None:
                return f"rekeyd knows it ({status.state})"
        elif status is None:
            return "rekeyd has not looked at it"
        elif (status.state, status.reason) != (actor.state, actor.reason):
            return f"is {status.state} ({status.reason}), not {actor.state} ({actor.reason})"
        return self._wrong_keys(actor)

    def _wrong_keys(self, actor: Actor) -> str | None:
        keys = {key.access_key_id: key.status for key in self.stage.aws.keys(actor.account_id, actor.name)}
        before = [key.access_key_id for key in self.stage.seeded[actor.name]]
        if actor.end is End.UNTOUCHED:
            expected = dict.fromkeys(before, "Inactive" if actor.start is Start.DEAD else "Active")
            return None if keys == expected else f"its keys were touched: {keys}"
        new = [key_id for key_id in keys if key_id not in before]
        stays = before if actor.end is End.BOTH_ACTIVE else []
        if len(new) != 1 or keys != dict.fromkeys([*stays, *new], "Active"):
            return f"its keys are {keys}"
        held = self.stage.bao.read(actor.vault_path)
        if held is None or held.data["access_key_id"] != new[0]:
            return f"Vault does not serve {new[0]}"
        if held.data["secret_access_key"] != self.stage.aws.secret_of(new[0]):
            return f"Vault serves {new[0]} with another secret"
        return None

    # -- processes

    def rekeyd(self, *arguments: str) -> Ran:
        """Types a command, shows it and its exit code, and gives back what it printed."""
        line = f"rekeyd {' '.join(arguments)}"
        self.narrator.say(f"$ {line}")
        log = self.stage.logs / f"{arguments[0]}.log"
        process = self.processes.start(*_PROGRAM, *arguments, log=log, answers=True)
        try:
            out, _ = process.communicate(timeout=max(self.limit_seconds - self.watch.elapsed(), 5.0))
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        ran = Ran(command=line, code=process.returncode, out=out)
        said = ran.document.get("error")
        self.narrator.say(f"  exit {ran.code}" + (f": {said['message']}" if isinstance(said, dict) else ""))
        return ran

    def _rekeyd(self, *arguments: str, log: str) -> "subprocess.Popen[str]":
        return self.processes.start(*_PROGRAM, *arguments, log=self.stage.logs / log)

    def _consume(self, name: str, path: str) -> None:
        stage = self.stage
        self.processes.start(
            *("-m", "rekeyd.demo.consumer"),
            *("--vault-addr", stage.bao.address, "--token-file", str(stage.credentials / "consumer-token")),
            *("--path", path, "--sts-endpoint", stage.aws.url, "--interval", "0.4"),
            *("--status", str(status_file(stage.folder, name))),
            *("--failures", str(status_file(stage.folder, name).with_suffix(".failures"))),
            log=stage.logs / "consumers.log",
        )

    def _until(self, what: str, seen: Callable[[Sight], bool]) -> None:
        while True:
            sight = self.watch.latest
            if seen(sight):
                return
            if self.daemon is not None and self.daemon.poll() is not None:
                raise DemoError(f"the daemon ended with {self.daemon.returncode} before {what}")
            if self.watch.elapsed() > self.limit_seconds:
                raise DemoError(f"after {self.limit_seconds:g} s it is still not so that {what}")
            time.sleep(_POLL_SECONDS)


def consumer_names() -> tuple[str, ...]:
    return (*(actor.name for actor in CAST if actor.consumed), COPY_NAME)


def status_file(folder: Path, name: str) -> Path:
    return folder / "consumers" / f"{name.replace(' ', '-').strip('()')}.json"
