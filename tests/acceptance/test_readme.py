"""The README is true: every command in it runs, and every file that it names exists."""

import re
import shlex
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.acceptance.stand import Stand

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]

# Critical findings make these exit 3, and here is one: the account has a root key.
EXPECTED = dict.fromkeys(["rekeyd audit", "rekeyd status", "rekeyd alarms", "rekeyd root audit"], 3)


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_every_make_target_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{re.escape(command.split()[1])}:", makefile, flags=re.MULTILINE)


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_readme(stand: Stand) -> None:
    stand.write_config()
    # Not due: how far the daemon comes before it is stopped must not matter to the commands after it.
    stand.user("ci-deploy", key_age=timedelta(days=3))
    stand.user("ci-leaked", key_age=timedelta(days=3))
    stand.aws.add_root_key("111122223333")
    for command in COMMANDS:
        if not command.startswith("rekeyd "):
            continue
        words, _, target = command.partition(" > ")
        arguments = shlex.split(words)[1:]
        if arguments == ["run"]:
            daemon = stand.start(*arguments)
            daemon.wait_for_event("daemon.became_ready")
            assert daemon.stop().code == 0
            continue
        ran = stand.run(*[_in(stand, word) for word in arguments])
        assert ran.code == EXPECTED.get(words, 0), f"{command}\n{ran.out}\n{ran.err}"
        if target:
            text = ran.out.replace("https://vault.example:8200", stand.bao.address)
            (stand.folder / target).write_text(text)
    assert sys.version_info >= (3, 11)


def _in(stand: Stand, word: str) -> str:
    return str(stand.folder / word) if word.endswith(".toml") else word
