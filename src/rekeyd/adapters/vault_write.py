"""Writing one version exactly once, however many answers are lost.

The same body goes out with the same cas until Vault acknowledges or refuses it, so at most one of the requests can
land, however late it arrives. A refusal is no verdict by itself: our own earlier request may be what moved the
version, so version cas + 1, which never changes, is read and compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Never

from hvac.api.secrets_engines import KvV2

from rekeyd.adapters.vault_client import CAS_MISMATCH, VaultClient
from rekeyd.adapters.vault_read import Life, Store, Target, timestamp
from rekeyd.adapters.vault_wire import Answer
from rekeyd.errors import ConflictError, Error, OutcomeUnknownError, RefusedError, StoppingError, TemporaryError
from rekeyd.ports import Clock, Guard

_FIRST_DELAY = timedelta(seconds=0.1)
_LONGEST_DELAY = timedelta(seconds=5)
# A call is not begun with less: it could not even connect.
_SHORTEST_CALL = timedelta(seconds=0.25)
# How often version cas + 1 is looked for after a refusal before its absence is believed: a standby shows a write
# up to 133 ms late (OpenBao 2.7, three nodes), and each look has its own retries and delays.
_LOOKS_FOR_MISSING = 5


@dataclass(frozen=True, slots=True)
class Landed:
    version: int
    created_at: datetime


class Write:
    """One version to be written; used once, by one thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        target: Target,
        fields: Mapping[str, Any],
        *,
        cas: int,
        guard: Guard | None,
        give_up_at: datetime,
        is_ours: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        """`is_ours` judges the fields of version cas + 1; without it they must equal `fields`."""
        self._store = store
        self._client: VaultClient = store.client
        self._clock = clock
        self._target = target
        self._fields = dict(fields)
        self._cas = cas
        self._guard = guard
        self._give_up_at = give_up_at
        self._is_ours = is_ours if is_ours is not None else (lambda found: dict(found) == self._fields)
        self._lost = False
        """An answer was lost, so one of our requests may have landed, or may land later."""
        self._refused_by_cas = False
        self._missing = 0
        self._last: Error | None = None

    def run(self) -> Landed:
        """Raises ConflictError, OutcomeUnknownError; TemporaryError, RefusedError and StoppingError only when none
        of our requests can have landed; LeaseLostError from the guard."""
        what = f"write {self._target.label} version {self._cas + 1}"
        try:
            return self._until_known(what)
        except StoppingError as stopping:
            self._give_up(what, stopping)

    def _until_known(self, what: str) -> Landed:
        delay = _FIRST_DELAY
        while True:
            remaining = self._give_up_at - self._clock.now()
            if remaining < _SHORTEST_CALL:
                self._give_up(what, None)
            landed = self._attempt(what, remaining)
            if landed is not None:
                return landed
            self._clock.sleep(min(delay, max(self._give_up_at - self._clock.now(), timedelta(0))))
            delay = min(2 * delay, _LONGEST_DELAY)

    def _attempt(self, what: str, remaining: timedelta) -> Landed | None:
        if self._unclear:
            landed = self._look()
            if landed is not None:
                return landed
        try:
            answer = self._send(remaining)
        except OutcomeUnknownError as error:
            self._lost = True
            self._last = error
            return None
        except (TemporaryError, RefusedError) as error:
            self._not_done(error)
            return None
        landed = self._landed(answer)
        if landed is not None:
            self._client.wrote(answer)
            return landed
        if answer.status == 400 and answer.says(CAS_MISMATCH):
            self._refused_by_cas = True
            self._client.wrote(answer)
            return self._look()
        problem = self._client.problem(answer, what, changing=True)
        if isinstance(problem, OutcomeUnknownError):
            self._lost = True
            self._last = problem
        else:
            self._not_done(problem)
        return None

    def _landed(self, answer: Answer) -> Landed | None:
        """None: it does not say so, in full."""
        said = answer.part("data") or {}
        if not answer.ok or said.get("version") != self._cas + 1:
            return None
        try:
            return Landed(self._cas + 1, timestamp(said["created_time"]))
        except (KeyError, ValueError):
            return None

    @property
    def _unclear(self) -> bool:
        return self._lost or self._refused_by_cas

    def _send(self, remaining: timedelta) -> Answer:
        target = self._target
        return self._client.once(
            lambda line: KvV2(line).create_or_update_secret(
                target.path, secret=self._fields, cas=self._cas, mount_point=target.mount
            ),
            namespace=target.namespace,
            guard=self._guard,
            limit=min(self._client.timeout, remaining.total_seconds()),
        )

    def _not_done(self, error: Error) -> None:
        """This request certainly did nothing. That settles it unless an earlier one is unclear."""
        if not self._unclear and not isinstance(error, TemporaryError):
            raise error
        self._last = error

    def _look(self) -> Landed | None:
        """Whose version cas + 1 is. None: not known yet."""
        number = self._cas + 1
        try:
            found = self._store.stored(self._target, number)
        except (TemporaryError, RefusedError) as error:
            self._last = error
            return None
        if found.life is Life.LIVE and found.created_at is not None:
            if self._is_ours(found.fields):
                return Landed(number, found.created_at)
            raise ConflictError(
                f"{self._target.label} version {number} was written by somebody else", hint="it is looked at again"
            )
        if found.life is not Life.ABSENT:
            raise OutcomeUnknownError(f"{self._target.label} version {number} is {found.life} and may have been ours")
        if self._refused_by_cas:
            self._missing += 1
            if self._missing >= _LOOKS_FOR_MISSING:
                self._explain_missing()
        return None

    def _explain_missing(self) -> None:
        """Refused by check-and-set, and there is no version cas + 1: the numbers are not what the caller saw."""
        label, number = self._target.label, self._cas + 1
        try:
            metadata = self._store.metadata(self._target)
        except (TemporaryError, RefusedError) as error:
            self._last = error
            return
        current = 0 if metadata is None else metadata.current_version
        if self._lost or current >= number:
            raise OutcomeUnknownError(f"{label} version {number} is no longer kept and may have been ours")
        raise ConflictError(
            f"{label} is at version {current} and not at {self._cas}: its versions were removed",
            hint="it is looked at again",
        )

    def _give_up(self, what: str, stopping: StoppingError | None) -> Never:
        cause = stopping if stopping is not None else self._last
        why = "rekeyd is stopping" if stopping is not None else "the time for it is over"
        said = f" ({self._last.message})" if self._last is not None else ""
        hint = None if self._last is None else self._last.hint
        if self._unclear:
            raise OutcomeUnknownError(
                f"{what}: {why}, and whether it was stored is not known{said}", hint=hint
            ) from cause
        if stopping is not None:
            raise stopping
        raise TemporaryError(f"{what}: {why}, and nothing was stored{said}", hint=hint) from cause
