"""Calls to Vault through hvac's API classes, with rekeyd's own rules of transport.

    once(act)   one request, repeated once with a fresh token after a 403; any status comes back as an Answer
    read(act)   the same with bounded retries, from the leader; raises unless it is a 2xx or an understood 404
    problem()   what an answer that is no success means for the caller

`act` is a function of a `Line`, which is what hvac takes for its adapter: `lambda line: KvV2(line).read_…`.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from rekeyd.adapters.vault_settings import VaultSettings
from rekeyd.adapters.vault_wire import Answer, Wire
from rekeyd.core.secret import Secret
from rekeyd.errors import AccessDeniedError, Error, OutcomeUnknownError, RefusedError, TemporaryError
from rekeyd.ports import Clock, Guard

# Printable ASCII without a space: anything else could end the header, and the library's own complaint would show it.
_HEADER_VALUE = re.compile(r"[\x21-\x7e]+")

# raft's index is an unsigned number of 64 bits; half of it is far enough.
_GREATEST = str(2**63 - 1)

# A leader is elected anew within 1.4 s, a standby is at most 133 ms behind (measured on OpenBao 2.7, three nodes).
_READ_DELAYS = tuple(timedelta(seconds=s) for s in (0.05, 0.2, 0.5, 1.0, 1.5))

CAS_MISMATCH = "check-and-set parameter did not match"
# For a second after a mount was made, on a cluster.
_UPGRADING = ("Upgrading from non-versioned to versioned data", "Waiting for the primary to upgrade")
_SEALED = "Vault is sealed"


class Line:
    """What hvac's API classes take for their adapter: one namespace, one token, one time limit."""

    def __init__(
        self,
        wire: Wire,
        *,
        namespace: str,
        token: Secret | None,
        limit: float,
        guard: Guard | None = None,
        index: str | None = None,
    ) -> None:
        self._wire = wire
        self._limit = limit
        self._guard = guard
        self._headers = {"X-Vault-Request": "true"}
        if token is not None:
            self._headers["X-Vault-Token"] = _header(token.reveal(), "the Vault token")
        if namespace:
            self._headers["X-Vault-Namespace"] = _header(namespace, "vault.namespace")
        if index:
            self._headers["X-Vault-Index"] = index

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: FBT001, FBT002, ARG002 - hvac's signature; every status comes back
        **kwargs: Any,
    ) -> Answer:
        sent = self._headers | dict(headers or {})
        body = kwargs.get("json")
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        if method.upper() == "GET" or "X-Vault-Index" in sent:
            # A standby that is behind the index asks the leader instead of answering with the past.
            sent["X-Vault-Inconsistent"] = "forward-active-node"
        params = {name: str(value) for name, value in (kwargs.get("params") or {}).items()}
        return self._wire.exchange(
            method.upper(), url, headers=sent, params=params, body=body, limit=self._limit, guard=self._guard
        )

    def get(self, url: str, **kwargs: Any) -> Answer:
        return self.request("GET", url, **kwargs)

    def post(self, url: str, **kwargs: Any) -> Answer:
        return self.request("POST", url, **kwargs)

    def login(self, url: str, use_token: bool = False, **kwargs: Any) -> Answer:  # noqa: FBT001, FBT002, ARG002
        return self.request("POST", url, **kwargs)


Act = Callable[[Line], Answer]


class Tokens(Protocol):
    """Where the token comes from; see vault_auth."""

    def token(self) -> Secret | None:
        """The token to use now; logs in if there is none. Raises TemporaryError or RefusedError."""

    def renewed_after_refusal(self, refused: Secret | None) -> bool:
        """Called after a 403. True: there is another token now, so the call is worth repeating."""


class VaultClient:
    """All calls of one daemon to one Vault. Safe to share between threads."""

    def __init__(self, settings: VaultSettings, *, wire: Wire, tokens: Tokens, clock: Clock) -> None:
        self.address = wire.address
        self.timeout = settings.timeout.total_seconds()
        self._wire = wire
        self._tokens = tokens
        self._clock = clock
        self._lock = threading.Lock()
        self._index: str | None = None
        self._from_leader = False
        """The index is one that only the leader has."""

    def once(self, act: Act, *, namespace: str, guard: Guard | None = None, limit: float | None = None) -> Answer:
        """Raises what the wire raises; an answer of any status is returned."""
        answer = None
        for _ in range(2):
            token = self._tokens.token()
            line = Line(
                self._wire,
                namespace=namespace,
                token=token,
                limit=self.timeout if limit is None else limit,
                guard=guard,
                index=self._index,
            )
            answer = act(line)
            self._learn_cluster(answer)
            if answer.status != 403 or not self._tokens.renewed_after_refusal(token):
                break
        assert answer is not None  # noqa: S101 - the loop ran
        return answer

    def wrote(self, answer: Answer) -> None:
        """Remember the cluster state of a write, so that no later read of this process is answered from before it.

        Needed where the index cannot be read (Vault Enterprise signs it); else all reads come from the leader anyway.
        """
        if answer.index and not self._from_leader:
            with self._lock:
                self._index = answer.index

    def _learn_cluster(self, answer: Answer) -> None:
        """From the first answer on, ask for a state that no standby has reached: it forwards to the leader then.

        Else a new process, which has written nothing yet, would be answered from the past: on OpenBao, 100 of 100
        reads through a standby right after a write elsewhere were stale, and with this none.
        """
        ahead = _beyond(answer.index)
        if ahead is not None and ahead != self._index:
            with self._lock:
                self._index, self._from_leader = ahead, True

    def read(self, act: Act, what: str, *, namespace: str) -> Answer:
        """Returns a 2xx or a 404. Raises TemporaryError after the last retry, else what `problem` says."""
        began = time.monotonic()
        last: Error = TemporaryError(f"{what}: not tried")
        for attempt in range(len(_READ_DELAYS) + 1):
            if attempt:
                if time.monotonic() - began > 2 * self.timeout:
                    break
                self._clock.sleep(_READ_DELAYS[attempt - 1])
            try:
                answer = self.once(act, namespace=namespace)
            except (TemporaryError, OutcomeUnknownError) as error:
                last = error
                continue
            if answer.ok or (answer.status == 404 and answer.body is not None):
                return answer
            problem = self.problem(answer, what, changing=False)
            if not isinstance(problem, TemporaryError):
                raise problem
            last = problem
        raise TemporaryError(f"{what}: {last.message}", hint=last.hint) from last

    def problem(self, answer: Answer, what: str, *, changing: bool) -> Error:
        """The error that this answer is. `what` names the call and the path; Vault's own text never gets through."""
        status, said = answer.status, f"{what}: Vault at {self.address} "
        if answer.ok:
            if changing:
                return OutcomeUnknownError(f"{said}answered {status} without the version that it made")
            return RefusedError(f"{said}answered {status} with something that is not Vault's answer")
        if status in {307, 308}:
            # A standby that cannot forward, most often since the leader has just died.
            return TemporaryError(
                f"{said}answered with a redirect ({status}), which is never followed with a token",
                hint="if it stays so, set vault.address to the active node or to a load balancer that forwards to it",
            )
        if 300 <= status < 400:
            return RefusedError(
                f"{said}answered with a redirect ({status}), which is never followed with a token",
                hint="set vault.address to the active node or to a load balancer that forwards to it",
            )
        if status == 403:
            return AccessDeniedError(
                f"{what}: no permission in Vault at {self.address}",
                hint="`rekeyd policy vault` prints the policy that rekeyd needs; or the token is no longer valid",
            )
        if status in {412, 429, 472, 473}:
            return TemporaryError(f"{said}is not ready to answer ({status}: behind, standby or rate limit)")
        if status >= 500:
            return self._server_problem(answer, said, changing=changing)
        return self._request_problem(answer, said)

    def _server_problem(self, answer: Answer, said: str, *, changing: bool) -> Error:
        # Stored under one key; this 500 is decided before anything is written.
        if answer.says("too large"):
            return RefusedError(
                f"{said}refused the secret as too large", hint="keep fewer other fields beside the pair"
            )
        why = "is sealed" if answer.says(_SEALED) else f"answered {answer.status}"
        if answer.says("locked by an administrator"):
            why = "has locked the namespace"
        # A 500 of a write is no refusal: `leadership lost` and a full audit disk come after the version was stored.
        kind = OutcomeUnknownError if changing else TemporaryError
        return kind(f"{said}{why}", hint=sealed_hint(answer))

    def _request_problem(self, answer: Answer, said: str) -> Error:
        if any(answer.says(text) for text in _UPGRADING):
            return TemporaryError(f"{said}is still making the mount")
        if answer.says("HTTP request to an HTTPS server") or (answer.status == 400 and answer.body is None):
            return RefusedError(f"{said}did not understand the request (400)", hint="check vault.address: https?")
        if answer.says("namespace not found"):
            return RefusedError(f"{said}has no such namespace", hint="check vault.namespace")
        if answer.says("no handler for route"):
            return RefusedError(f"{said}has no such mount", hint="check vault.mount")
        return RefusedError(f"{said}refused it ({answer.status})", hint="Vault's audit log has the request")

    def close(self) -> None:
        self._wire.close()


def answered(answer: Answer) -> str:
    """The status, and that Vault is sealed if it says so; none of Vault's own text."""
    return f"{answer.status}: Vault is sealed" if answer.says(_SEALED) else str(answer.status)


def sealed_hint(answer: Answer) -> str | None:
    return "unseal it, or find out why it does not unseal itself" if answer.says(_SEALED) else None


def _beyond(index: str | None) -> str | None:
    """The index of the same cluster with the greatest number. None: there is none, or it is not OpenBao's
    `{"cluster": …, "value": "57"}`."""
    try:
        parts = json.loads(base64.b64decode(index or "", validate=True))
    except ValueError:
        return None
    if not isinstance(parts, dict) or set(parts) != {"cluster", "value"} or not str(parts["value"]).isdigit():
        return None
    made = json.dumps({"cluster": parts["cluster"], "value": _GREATEST}, separators=(",", ":"))
    return base64.b64encode(made.encode()).decode()


def _header(value: str, what: str) -> str:
    if not _HEADER_VALUE.fullmatch(value):
        raise RefusedError(f"{what} has a character that no token or name has", hint="check the file or the setting")
    return value
