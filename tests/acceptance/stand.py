"""A whole world for the installed program: an AWS on loopback, a real OpenBao, a configuration in seconds.

    stand.write_config()
    stand.user("ci", key_age=timedelta(days=120))      # held: Vault serves its key
    ran = stand.run("rotate-now", "ci", "--json")
    assert ran.code == 0 and ran.document["rotations"][0]["outcome"] == "published"

The program runs as a process, as an operator would start it; nothing of it is replaced.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from rekeyd.demo.emulator import HUB, EmulatedAws, SeededKey, SeededUser
from rekeyd.demo.openbao import OpenBaoServer, StoredSecret
from rekeyd.demo.ports import free_port
from tests.secret_registry import remember, write_secret

T = TypeVar("T")

# Generous: two cores shared with other work. A test that passes never waits for it.
LIMIT_SECONDS = 90.0
_POLL_SECONDS = 0.05

POLICY: Mapping[str, object] = {
    "name": "default",
    "exclude": {"users": ["rekeyd"]},
    "max_age": "90d",
    "overlap": "1s",
    "quarantine": "1s",
    "unused_for": "0s",
    "verify_first": "0s",
    "verify_probes": 2,
    "verify_spacing": "0.05s",
    "verify_timeout": "20s",
    "publish_timeout": "10s",
}
"""A life cycle of seconds, for keys that are months old. `rekeyd` is the identity of the program itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A finished run of the program."""

    code: int
    out: str = field(repr=False)
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON log lines on stderr."""
        return _log_lines(self.err)


class Running:
    """The program while it runs; what it prints is collected."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._out: list[str] = []
        self._err: list[str] = []
        self._readers = [
            threading.Thread(target=self._collect, args=(process.stdout, self._out), daemon=True),
            threading.Thread(target=self._collect, args=(process.stderr, self._err), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return "".join(self._out)

    @property
    def err(self) -> str:
        return "".join(self._err)

    @property
    def events(self) -> list[dict[str, Any]]:
        return _log_lines(self.err)

    def wait_for_event(self, name: str, *, count: int = 1, limit: float = LIMIT_SECONDS) -> dict[str, Any]:
        """The `count`-th log line of that event."""

        def found() -> dict[str, Any] | None:
            lines = [line for line in self.events if line.get("event") == name]
            return lines[count - 1] if len(lines) >= count else None

        return eventually(found, f"{count} x {name}", limit=limit, alive=self)

    def wait(self, *, limit: float = LIMIT_SECONDS) -> Ran:
        """Its end, by itself."""
        code = self.process.wait(timeout=limit)
        for reader in self._readers:
            reader.join(timeout=10)
        return Ran(code=code, out=self.out, err=self.err)

    def stop(self, sig: signal.Signals = signal.SIGTERM, *, limit: float = LIMIT_SECONDS) -> Ran:
        """Sends the signal to this one process and waits for its end."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.wait(limit=limit)

    @staticmethod
    def _collect(stream: Any, lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line)  # noqa: PERF402 - the others read while it grows


def _log_lines(text: str) -> list[dict[str, Any]]:
    lines = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue  # the last line of a running process may be unfinished
    return lines


def eventually(
    look: Callable[[], T | None], what: str, *, limit: float = LIMIT_SECONDS, alive: Running | None = None
) -> T:
    """The first answer of `look` that counts as true; fails after `limit` seconds, or when `alive` has ended."""
    ends = time.monotonic() + limit
    while True:
        ended = alive is not None and alive.process.poll() is not None
        found = look()
        if found:
            return found
        if ended and alive is not None:
            raise AssertionError(f"the program ended before {what}\n{alive.err[-4000:]}")
        if time.monotonic() > ends:
            raise AssertionError(f"{what} did not come in {limit} s\n{'' if alive is None else alive.err[-4000:]}")
        time.sleep(_POLL_SECONDS)


@dataclass(slots=True, kw_only=True)
class Stand:
    """The world, and the program's place in it. `mount` is a KV v2 mount of its own on a server shared by tests."""

    aws: EmulatedAws
    bao: OpenBaoServer
    folder: Path
    mount: str = "secret"
    instance: str = "default"
    http_port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    """Of the program; `run(..., env=…)` adds to it."""
    _started: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.temporary.mkdir(parents=True, exist_ok=True)
        write_secret(self.token_file, self.bao.root_token)
        self.environment = {
            "HOME": str(self.folder),
            "PATH": os.defpath,
            # So that what it leaves there is found and searched for secrets.
            "TMPDIR": str(self.temporary),
            "REKEYD_STRICT_EVENTS": os.environ.get("REKEYD_STRICT_EVENTS", "1"),
            "REKEYD_CONFIG": str(self.config),
            **self.aws.daemon_environment(),
        }

    # -- files

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def token_file(self) -> Path:
        return self.folder / "vault-token"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def journal(self) -> Path:
        return self.folder / "journal" / "journal.db"

    def write_config(
        self,
        policy: Mapping[str, object] | None = None,
        *,
        policies: Sequence[Mapping[str, object]] | None = None,
        mode: str = "enforce",
        accounts: Mapping[str, str | None] | None = None,
        settle: str = "0.3s",
        scan_every: str = "2s",
        extra: str = "",
    ) -> Path:
        """`policy` changes entries of POLICY; `policies` replaces it. `accounts`: ids with role ARNs (None: own
        credentials). `extra` is TOML put at the end."""
        lines = [
            f'[aws]\nregion = "{self.aws.region}"\nsettle = "{settle}"',
            *(
                f'[[aws.accounts]]\nid = "{account_id}"' + ("" if arn is None else f'\nrole_arn = "{arn}"')
                for account_id, arn in (accounts or {}).items()
            ),
            f'[vault]\naddress = "{self.bao.address}"\nmount = "{self.mount}"',
            f'[vault.auth]\nmethod = "token_file"\ntoken_file = "{self.token_file}"',
            *(
                "[[policies]]\n" + "\n".join(f"{name} = {_toml(value)}" for name, value in entries.items())
                for entries in ([{**POLICY, **(policy or {})}] if policies is None else policies)
            ),
            f'[scan]\nevery = "{scan_every}"\ndrift_every = "{scan_every}"',
            '[root]\ncheck_every = "1s"',
            '[alarms]\nrepeat_every = "5s"',
            f'[fleet]\nmode = "{mode}"\nmax_parallel = 4\nmax_rotations_per_hour = 1000',
            f'[journal]\nurl = "sqlite:///{self.journal}"\ninstance = "{self.instance}"',
            f'[http]\nlisten = "127.0.0.1:{self.http_port}"',
            extra,
        ]
        self.config.write_text("\n\n".join(lines) + "\n")
        return self.config

    # -- users and what Vault holds

    def user(
        self,
        name: str,
        *,
        key_age: timedelta | None = timedelta(days=120),
        held: bool = True,
        account_id: str = HUB,
        path: str = "/",
        tags: Mapping[str, str] | None = None,
    ) -> SeededUser:
        """A user with one Active key (`key_age=None`: none) that Vault serves if `held`."""
        user = self.aws.create_user(account_id, name, key_age=key_age, path=path, tags=tags)
        if held and key_age is not None:
            self.hold(user, user.key)
        return user

    def hold(self, user: SeededUser, key: SeededKey, **more: str) -> int:
        """Somebody writes this key to the user's place in Vault; returns the version."""
        data = {"access_key_id": key.access_key_id, "secret_access_key": key.secret_access_key, **more}
        return self.bao.write(self.vault_path(user.name, user.account_id), data, mount=self.mount)

    def held(self, name: str, account_id: str = HUB) -> StoredSecret | None:
        return self.bao.read(self.vault_path(name, account_id), mount=self.mount)

    def held_id(self, name: str, account_id: str = HUB) -> str | None:
        """The access key ID that Vault serves; None: nothing is there, or no pair (a burn's marker)."""
        secret = self.held(name, account_id)
        return None if secret is None else secret.data.get("access_key_id")

    def serves_a_live_pair(self, name: str, account_id: str = HUB) -> bool:
        """Whether Vault serves an id with its own secret, of a key of this user that is Active (P1)."""
        secret = self.held(name, account_id)
        if secret is None:
            return False
        key_id = secret.data.get("access_key_id", "")
        listed = {key.access_key_id: key.status for key in self.aws.keys(account_id, name)}
        return listed.get(key_id) == "Active" and secret.data["secret_access_key"] == self.aws.secret_of(key_id)

    @staticmethod
    def vault_path(name: str, account_id: str = HUB) -> str:
        return f"aws/{account_id}/{name}"

    def statuses(self, name: str, account_id: str = HUB) -> list[str]:
        """IAM's status of each key of the user, oldest first."""
        return [key.status for key in self.aws.keys(account_id, name)]

    # -- the program

    def start(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: Any = None,
        program: Sequence[str] | None = None,
    ) -> Running:
        """Ended, if need be, when the stand is taken down. `program`: another way to begin it."""
        process = subprocess.Popen(
            [*(program or PROGRAM), *arguments],
            env={**self.environment, **(env or {})},
            cwd=self.folder,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running = Running(process)
        self._started.append(running)
        return running

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, limit: float = LIMIT_SECONDS) -> Ran:
        """To its end. What it printed is kept for the failure message, and searched for secrets."""
        ran = self.start(*arguments, env=env).wait(limit=limit)
        sys.stdout.write(f"$ rekeyd {' '.join(arguments)}\n{ran.out}[exit {ran.code}]\n{ran.err}")
        return ran

    @contextmanager
    def daemon(self, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
        """`rekeyd run`, ready; stopped by SIGTERM at the end of the block."""
        running = self.start("run", *arguments, env=env)
        try:
            running.wait_for_event("daemon.became_ready")
            yield running
        finally:
            ran = running.stop()
            sys.stdout.write(f"$ rekeyd run\n[exit {ran.code}]\n{ran.err}")

    def close(self) -> None:
        """Ends what runs. What every program printed is left in a file, to be searched for secrets."""
        printed = self.folder / "printed"
        printed.mkdir(exist_ok=True)
        for number, running in enumerate(self._started):
            if running.process.poll() is None:
                running.process.kill()
            ran = running.wait()
            (printed / f"{number}.out").write_text(ran.out)
            (printed / f"{number}.err").write_text(ran.err)


PROGRAM = (str(Path(sys.executable).with_name("rekeyd")),)
"""As it is installed."""


def _toml(value: object) -> str:
    match value:
        case bool() | int() | str():
            return json.dumps(value)
        case dict():
            return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            raise TypeError(f"{value!r} has no TOML here")


@contextmanager
def standing(bao: OpenBaoServer, folder: Path, *, mount: str, **aws: Any) -> Iterator[Stand]:
    """A stand with an AWS of its own; `aws` goes to EmulatedAws. `bao` runs already and outlives it."""
    with EmulatedAws(on_secret=remember, **aws) as emulated:
        stand = Stand(aws=emulated, bao=bao, folder=folder, mount=mount)
        try:
            yield stand
        finally:
            stand.close()
