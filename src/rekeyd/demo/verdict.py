"""Was it as it must be? The checks at the end of the demo, and the summary that follows from them.

What IAM and Vault really hold, what the consumers counted, and what rekeyd's own
commands say must agree.
"""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rekeyd.demo.cast import AWAY, CAST, CRASHED, DEAD, HOME, Actor, Start
from rekeyd.demo.story import Ran, Story, consumer_names
from rekeyd.demo.watch import Sight, Usage

_EXIT_CRITICAL = 3
_ROOT_METRIC = re.compile(r'^rekeyd_root_access_keys\{account_id="(\d+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    wrong: str | None
    """None: as it must be."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    user_name: str
    account_id: str
    old_key_id: str
    new_key_id: str
    old_is: str
    """`deleted`, or IAM's status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    user_name: str
    state: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    seconds: float
    rotated: tuple[Rotated, ...]
    refused: tuple[Refused, ...]
    consumers: Mapping[str, Usage] = field(repr=False)
    checks: tuple[Check, ...]
    audit_trail: str
    """Where it lies, or that it was removed."""

    @property
    def ok(self) -> bool:
        return all(check.wrong is None for check in self.checks)

    def document(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "rotations": [
                {
                    "account_id": each.account_id,
                    "user_name": each.user_name,
                    "old_access_key_id": each.old_key_id,
                    "new_access_key_id": each.new_key_id,
                    "old_key": each.old_is,
                }
                for each in self.rotated
            ],
            "refused": [
                {"user_name": each.user_name, "state": each.state, "message": each.message} for each in self.refused
            ],
            "consumers": [
                {"name": name, "calls": usage.calls, "failures": usage.failures, "access_key_ids": list(usage.key_ids)}
                for name, usage in self.consumers.items()
            ],
            "checks": [
                {"name": check.name, "ok": check.wrong is None, "detail": check.wrong or check.detail}
                for check in self.checks
            ],
            "audit_trail": self.audit_trail,
        }


def of_the_live(story: Story) -> tuple[Check, ...]:
    """What is asked while the daemon still runs."""
    sight = story.watch.look()
    return (
        users(story),
        _calls(story),
        _orphan(story, sight),
        _asked("adoption by hand", story.asked),
        _asked("emergency by hand", story.emergency),
        _root(story, sight),
        _dead_key(sight),
        _audit_trail(story.rekeyd("history", "--verify", "--json")),
    )


def of_the_daemon_end(code: int | None) -> tuple[Check, ...]:
    """`code`: its exit code; None: it never started."""
    return (Check(name="the daemon stops when told", wrong=None if code == 0 else f"it ended with {code}"),)


def of_what_is_left(story: Story) -> tuple[Check, ...]:
    """What the consumers counted, and what was written."""
    return (_consumers(story.watch.look().consumers), _secrets(story))


def rotated(story: Story) -> Iterator[Rotated]:
    for actor in CAST:
        if not actor.rotates:
            continue
        old = story.stage.first_key_of(actor)
        now = [key.access_key_id for key in story.stage.aws.keys(actor.account_id, actor.name)]
        new = next((key_id for key_id in now if key_id != old), None)
        if new is not None:
            status = story.stage.aws.key(old).status
            yield Rotated(
                user_name=actor.name,
                account_id=actor.account_id,
                old_key_id=old,
                new_key_id=new,
                old_is=status.lower(),
            )


def refused(sight: Sight) -> Iterator[Refused]:
    for actor in CAST:
        status = sight.statuses.get(actor.name)
        if status is not None and status.state in ("refused", "unmanaged", "on_hold"):
            yield Refused(user_name=actor.name, state=status.state, message=status.message)


# -- one check each


def users(story: Story) -> Check:
    sight = story.watch.latest
    wrong = {actor.name: why for actor in CAST if (why := story.wrong_with(actor, sight)) is not None}
    said = "; ".join(f"{name}: {why}" for name, why in wrong.items())
    return Check(name="every user ends as it must", wrong=said or None, detail=f"{len(CAST)} users")


def _calls(story: Story) -> Check:
    """Each key was asked for once and deleted once; nobody else's was touched."""
    aws = story.stage.aws
    wrong = []
    for actor in CAST:
        made = len(aws.calls("CreateAccessKey", account=actor.account_id, user=actor.name))
        expected = int(actor.rotates) + int(actor is CRASHED)
        if made != expected:
            wrong.append(f"{actor.name}: CreateAccessKey was sent {made} times, not {expected}")
        if not actor.rotates and _changes(story, actor):
            wrong.append(f"{actor.name}: its keys were changed")
    count = len(aws.calls("CreateAccessKey"))
    return Check(
        name="CreateAccessKey is sent once a rotation, and strangers' keys are left alone",
        wrong="; ".join(wrong) or None,
        detail=f"{count} keys made",
    )


def _changes(story: Story, actor: Actor) -> int:
    aws = story.stage.aws
    return sum(len(aws.calls(op, account=actor.account_id, user=actor.name)) for op in ("UpdateAccessKey", "Delete*"))


def _orphan(story: Story, sight: Sight) -> Check:
    name = "the orphan of the killed process is found and removed"
    if story.orphan is None:
        return Check(name=name, wrong="there was none")
    status = story.stage.aws.key(story.orphan).status
    if status != "Deleted":
        return Check(name=name, wrong=f"{story.orphan} is {status}")
    if not any(e.access_key_id == story.orphan and e.event == "key.deleted" for e in sight.events):
        return Check(name=name, wrong=f"the audit trail does not say who deleted {story.orphan}")
    return Check(name=name, wrong=None, detail=story.orphan)


def _asked(name: str, ran: Ran | None) -> Check:
    if ran is None:
        return Check(name=name, wrong="it was not asked for")
    outcomes = [str(each.get("outcome")) for each in ran.document.get("rotations", [])]
    wrong = None if ran.code == 0 and outcomes == ["published"] else f"exit {ran.code}, outcome {outcomes}"
    return Check(name=name, wrong=wrong, detail=f"$ {ran.command}")


def _root(story: Story, sight: Sight) -> Check:
    name = "the root user's access key is seen"
    alarms = [alarm for alarm in sight.alarms if alarm.reason == "root_access_key"]
    if [alarm.account_id for alarm in alarms] != [AWAY]:
        return Check(name=name, wrong=f"alarms for {[alarm.account_id for alarm in alarms]}")
    metric = _root_metric(story)
    if metric != {HOME: 0.0, AWAY: 1.0}:
        return Check(name=name, wrong=f"rekeyd_root_access_keys is {metric}")
    codes = {command: story.rekeyd(command, "--json").code for command in ("audit", "status")}
    wrong = [f"rekeyd {command} ended with {code}" for command, code in codes.items() if code != _EXIT_CRITICAL]
    return Check(
        name=name,
        wrong="; ".join(wrong) or None,
        detail=f"account {AWAY}: alarm, metric, and exit {_EXIT_CRITICAL} of audit and status",
    )


def _root_metric(story: Story) -> dict[str, float]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{story.stage.http_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except (OSError, urllib.error.HTTPError):
        return {}
    return {account: float(value) for account, value in _ROOT_METRIC.findall(text)}


def _dead_key(sight: Sight) -> Check:
    alarm = next((alarm for alarm in sight.alarms if alarm.principal == DEAD.name), None)
    wrong = None
    if alarm is None or alarm.severity != "critical":
        wrong = "no alarm" if alarm is None else f"the alarm is only {alarm.severity}"
    return Check(name="the dead key in Vault is a critical alarm", wrong=wrong, detail=DEAD.name)


def _audit_trail(ran: Ran) -> Check:
    verified = ran.document.get("verified", {})
    whole = ran.code == 0 and verified.get("whole") is True
    return Check(
        name="the audit trail is whole",
        wrong=None if whole else f"rekeyd history --verify ended with {ran.code}",
        detail=f"{verified.get('chain')}; {verified.get('mark')}",
    )


def _consumers(consumers: Mapping[str, Usage]) -> Check:
    wrong = [
        f"{name}: {usage.failures} of {usage.calls} calls failed" for name, usage in consumers.items() if usage.failures
    ]
    wrong += [f"{name}: made no call" for name, usage in consumers.items() if not usage.calls]
    wrong += [
        f"{actor.name}: never used its new key"
        for actor in CAST
        if actor.consumed
        and actor.rotates
        and len(consumers[actor.name].key_ids) < (1 if actor.start is Start.NOT_IN_VAULT else 2)
    ]
    calls = sum(usage.calls for usage in consumers.values())
    return Check(
        name="no consumer ever failed",
        wrong="; ".join(wrong) or None,
        detail=f"{calls} calls by {len(consumer_names())} programs, 0 failed",
    )


def _secrets(story: Story) -> Check:
    """P7, the hard way: every file that was written is searched for every secret that was made."""
    stage = story.stage
    secrets = [secret.encode() for secret in (*stage.aws.secrets, *stage.logins)]
    files = [file for file in stage.folder.rglob("*") if file.is_file() and stage.credentials not in file.parents]
    holding = [file.relative_to(stage.folder) for file in files if _holds(file.read_bytes(), secrets)]
    return Check(
        name="no secret is in any journal, log or file",
        wrong=", ".join(str(file) for file in holding) or None,
        detail=f"{len(secrets)} secrets, {len(files)} files",
    )


def _holds(content: bytes, secrets: list[bytes]) -> bool:
    return any(secret in content for secret in secrets)
