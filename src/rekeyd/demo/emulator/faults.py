"""Faults for the emulated AWS and for the proxy before Vault: one rule, one line.

    aws.fault("CreateAccessKey", nth=1, when="after", do=Drop())
    vault.fault("POST secret/data/*", times=3, do=Http(503, "json"))

A rule counts the requests it matches, in the order in which they arrived, and
fires for the `nth` of them and the `times - 1` that follow (`forever`: all that follow).

    before    the other side has not seen the request; Delay, Hold, Call and
              Kill(then=None) let it pass afterwards, the others answer in its place
    after     the other side has acted; what it said is lost or replaced
    answered  the answer is on its way; only Hold, Call and Kill make sense

Several rules may match one request: they apply in the order in which they were
made, and the first that answers "before" keeps the request from the other side.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal, Protocol

# A forgotten release must not hang a test run for ever.
HOLD_LIMIT_SECONDS = 120.0

Moment = Literal["before", "after", "answered"]
Form = Literal["html", "xml", "json"]


class Cut(StrEnum):
    """How an answer's connection ends early."""

    DROPPED = "dropped"
    TRUNCATED = "truncated"
    TRUNCATED_UNANNOUNCED = "truncated, no length announced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut: Cut | None = None


@dataclass(slots=True, kw_only=True)
class SeenRequest:
    """One line of the journal of requests: who asked for what and what came of it, never a secret."""

    seq: int
    """Starts at 1, in order of arrival."""
    at: datetime
    service: str
    op: str
    """IAM action, or method and path below /v1/ for Vault."""
    method: str
    path: str
    account_id: str | None = None
    """Account of the signing key; None for Vault and for unknown keys."""
    user_name: str | None = None
    """The user acted upon; without one, the user who signs."""
    signed_by: str | None = None
    """Access key ID of the signature."""
    access_key_id: str | None = None
    """The request's AccessKeyId parameter."""
    created_access_key_id: str | None = None
    """Answer of CreateAccessKey, also if that answer was then lost."""
    region: str | None = None
    user_agent: str = ""
    status: int | None = None
    """What was sent; None while unanswered or when the connection was dropped."""
    error: str | None = None
    """Error code of the answer."""
    acted: bool = False
    """The other side saw the request (and its answer was not necessarily sent)."""
    acted_status: int | None = None
    """What the other side itself answered."""
    fault: str | None = None
    """Name of the last effect that a rule applied."""


@dataclass(slots=True, kw_only=True)
class Incident:
    """What an effect may look at and use."""

    rule: "Rule"
    seen: SeenRequest
    answer: Answer | None
    """The other side's answer; None before it acted."""
    error_answer: Callable[[str, str, int | None], Answer]
    """code, message, HTTP status (None: the code's usual one) in the wire format of this request."""
    forward: Callable[[], Answer]
    """Delivers the request (once more) and returns what the other side says."""
    stale_answer: Callable[[], Answer | None]
    """What a lagging replica of the other side would say; None: nothing older is known."""
    rules: "Rules"
    """For effects that arrange for something later."""


class Effect(Protocol):
    def apply(self, incident: Incident) -> Answer | None:
        """The answer to send instead; None: go on as if nothing had happened."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is reset without an answer."""

    def apply(self, incident: Incident) -> Answer | None:  # noqa: ARG002
        return Answer(status=0, headers=(), body=b"", cut=Cut.DROPPED)


@dataclass(frozen=True, slots=True)
class HoldBack:
    """The connection is reset; the request itself arrives only when the test says `rule.deliver()`.

    As a network may do: the client has long given up when the other side acts.
    """

    def apply(self, incident: Incident) -> Answer | None:
        incident.rule.undelivered.append(incident.forward)
        return Answer(status=0, headers=(), body=b"", cut=Cut.DROPPED)


@dataclass(frozen=True, slots=True)
class LateDuplicate:
    """The connection is reset; the request arrives right after its retry has been acted on."""

    def apply(self, incident: Incident) -> Answer | None:
        forward, seen = incident.forward, incident.seen
        retry = Rule(
            op=escape(seen.op),
            do=Call(lambda _: forward()),
            when="after",
            nth=1,
            times=1,
            account=seen.account_id,
            user=seen.user_name,
            where=None,
        )
        incident.rules.add(retry)
        return Answer(status=0, headers=(), body=b"", cut=Cut.DROPPED)


@dataclass(frozen=True, slots=True)
class Truncate:
    """Half of the answer's body, then the end of the connection."""

    announce_length: bool = True

    def apply(self, incident: Incident) -> Answer | None:
        answer = incident.answer or incident.error_answer("ServiceUnavailable", "unavailable", 503)
        cut = Cut.TRUNCATED if self.announce_length else Cut.TRUNCATED_UNANNOUNCED
        return Answer(status=answer.status, headers=answer.headers, body=answer.body, cut=cut)


@dataclass(frozen=True, slots=True)
class Hold:
    """Sets `rule.hit`, waits for `rule.release`, then goes on."""

    limit_seconds: float = HOLD_LIMIT_SECONDS

    def apply(self, incident: Incident) -> Answer | None:
        incident.rule.hit.set()
        incident.rule.release.wait(self.limit_seconds)
        return None


@dataclass(frozen=True, slots=True)
class Delay:
    """The answer comes late; longer than the client's read time-out, it is lost."""

    seconds: float

    def apply(self, incident: Incident) -> Answer | None:
        # Waits on the release so that stopping the server does not have to wait.
        incident.rule.release.wait(self.seconds)
        return None


@dataclass(frozen=True, slots=True)
class Http:
    """A bare status with a body that some proxy, load balancer or server might send."""

    status: int
    form: Form = "html"
    retry_after: int | None = None

    def apply(self, incident: Incident) -> Answer | None:  # noqa: ARG002
        types = {"html": "text/html", "xml": "text/xml", "json": "application/json"}
        bodies = {
            "html": f"<html><head><title>{self.status}</title></head><body><h1>{self.status}</h1></body></html>",
            "xml": "<ErrorResponse><Error><Type>Receiver</Type><Code>ServiceFailure</Code>"
            "<Message>service failed</Message></Error><RequestId>0</RequestId></ErrorResponse>",
            "json": '{"errors":["service failed"]}',
        }
        headers = [("Content-Type", types[self.form])]
        if self.retry_after is not None:
            headers.append(("Retry-After", str(self.retry_after)))
        return Answer(status=self.status, headers=tuple(headers), body=bodies[self.form].encode())


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """An error of the service itself, in its genuine form: LimitExceeded, AccessDenied, ExpiredToken ..."""

    code: str
    message: str = ""
    status: int | None = None
    """None: the status that AWS uses with this code."""

    def apply(self, incident: Incident) -> Answer | None:
        return incident.error_answer(self.code, self.message or self.code, self.status)


@dataclass(frozen=True, slots=True)
class Throttle:
    """AWS says 400 Throttling for IAM and STS (not 429); Vault's rate-limit quota says 429."""

    def apply(self, incident: Incident) -> Answer | None:
        return incident.error_answer("Throttling", "Rate exceeded", None)


@dataclass(frozen=True, slots=True)
class Call:
    """Calls a function at that point; the request then goes on."""

    function: Callable[[SeenRequest], object]

    def apply(self, incident: Incident) -> Answer | None:
        self.function(incident.seen)
        incident.rule.hit.set()
        return None


@dataclass(frozen=True, slots=True)
class Kill:
    """Sends a signal to a process; SIGKILL by default. The dead do not read answers: the connection is dropped."""

    pid: int | Callable[[], int]
    sig: signal.Signals = signal.SIGKILL
    wait_dead_seconds: float = 10.0

    def apply(self, incident: Incident) -> Answer | None:
        pid = self.pid if isinstance(self.pid, int) else self.pid()
        os.kill(pid, self.sig)
        if self.sig is signal.SIGKILL:
            _await_death(pid, self.wait_dead_seconds)
        incident.rule.hit.set()
        if self.sig is not signal.SIGKILL or incident.rule.when == "answered":
            return None
        return Answer(status=0, headers=(), body=b"", cut=Cut.DROPPED)


@dataclass(slots=True, kw_only=True)
class Rule:
    """One scripted fault. `hit` is set when it has fired, `release` ends its Hold or Delay."""

    op: str
    do: Effect
    when: Moment
    nth: int
    times: int | None
    account: str | None
    user: str | None
    where: Callable[[SeenRequest], bool] | None
    hit: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    undelivered: list[Callable[[], Answer]] = field(default_factory=list)
    matched: int = 0
    fired: int = 0
    active: bool = True

    def deliver(self) -> list[Answer]:
        """Lets the requests that HoldBack kept arrive now, in order; returns what they would have been answered."""
        waiting, self.undelivered = self.undelivered, []
        return [forward() for forward in waiting]

    def cancel(self) -> None:
        """Ends the rule and lets go whoever it holds."""
        self.active = False
        self.release.set()

    def matches(self, seen: SeenRequest) -> bool:
        """By operation (glob, with or without `service:`), account, user and predicate."""
        if not (fnmatchcase(seen.op, self.op) or fnmatchcase(f"{seen.service}:{seen.op}", self.op)):
            return False
        if self.account is not None and self.account != seen.account_id:
            return False
        if self.user is not None and self.user != seen.user_name:
            return False
        return self.where is None or self.where(seen)


def escape(op: str) -> str:
    """A glob that matches exactly this operation."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in op)


class Rules:
    """All rules of one server; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def expects(self, effect: type) -> bool:
        """Whether some rule in force has such an effect."""
        with self._lock:
            return any(rule.active and isinstance(rule.do, effect) for rule in self._rules)

    def clear(self) -> None:
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.cancel()

    def firing(self, seen: SeenRequest) -> list[Rule]:
        """Counts the request in every rule that matches it; returns the rules whose turn it is."""
        chosen = []
        with self._lock:
            for rule in self._rules:
                if not rule.active or not rule.matches(seen):
                    continue
                rule.matched += 1
                if rule.matched < rule.nth:
                    continue
                if rule.times is not None and rule.matched >= rule.nth + rule.times:
                    continue
                rule.fired += 1
                chosen.append(rule)
        return chosen


class Faulty:
    """What the emulated AWS and the proxy before Vault have in common for tests."""

    def __init__(self) -> None:
        self.rules = Rules()
        self.requests: list[SeenRequest] = []
        self.journal_limit: int | None = None
        """At least so many of the newest requests are kept; None: all."""

    def fault(
        self,
        op: str,
        *,
        do: Effect,
        when: Moment = "before",
        nth: int = 1,
        times: int = 1,
        forever: bool = False,
        account: str | None = None,
        user: str | None = None,
        where: Callable[[SeenRequest], bool] | None = None,
    ) -> Rule:
        """Scripts one fault; see the module's docstring."""
        limit = None if forever else times
        return self.rules.add(
            Rule(op=op, do=do, when=when, nth=nth, times=limit, account=account, user=user, where=where)
        )

    def clear_faults(self) -> None:
        """Ends all rules and releases whatever they hold."""
        self.rules.clear()

    def calls(
        self,
        op: str = "*",
        *,
        account: str | None = None,
        user: str | None = None,
        where: Callable[[SeenRequest], bool] | None = None,
    ) -> list[SeenRequest]:
        """The journal's requests that match, oldest first."""
        like = Rule(op=op, do=Drop(), when="before", nth=1, times=0, account=account, user=user, where=where)
        return [seen for seen in tuple(self.requests) if like.matches(seen)]


def _await_death(pid: int, limit_seconds: float) -> None:
    """Until the process is gone or a zombie: a signal is delivered soon, not at once."""
    ends = time.monotonic() + limit_seconds
    while time.monotonic() < ends:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123
                state = stat.read().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        time.sleep(0.001)
