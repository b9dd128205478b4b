"""What would be done, without doing it: for `plan`, `explain`, `audit` and `--dry-run`.

Looks as the daemon looks, and decides as it decides. Nothing is written and nothing changed outside; where the decision
needs the held pair to be proven, it is proven, since that changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime

from rekeyd.core.actions import Action, ProveHeld, Refuse, Rest
from rekeyd.core.decide import decide
from rekeyd.core.model import AccountId, Asked, HeldProof, Principal, Selection, VaultHeld
from rekeyd.core.policy import Policy, select
from rekeyd.core.reasons import Reason
from rekeyd.core.retire import held_too_long_since
from rekeyd.core.state import state_of
from rekeyd.errors import Error, NotFoundError, StoppingError
from rekeyd.fleet.account import message_of, status_of
from rekeyd.fleet.passes import Fleet
from rekeyd.ports import PrincipalStatus
from rekeyd.reconcile.observe import Look
from rekeyd.reconcile.principal import Outcome
from rekeyd.reconcile.prove import Prover
from rekeyd.reconcile.rules import Circumstances


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """The next action for a user, and what it was decided on."""

    principal: Principal
    policy: Policy | None
    looked_at: datetime
    look: Look | None = None
    action: Action | None = None
    error: Error | None = None
    """Why it could not be looked at; then there is neither look nor action."""

    @property
    def message(self) -> str:
        """The reason's sentence; for a refusal with the key, its age and last use."""
        if self.error is not None:
            return self.error.message
        outcome = self._outcome()
        if self.look is not None and outcome is not None:
            return message_of(self.look.seen, outcome)
        return "" if self.action is None else self.action.reason.sentence

    @property
    def held_since(self) -> datetime | None:
        """Its old key is still used, for longer than `max_hold`: since when it is on hold. None: it is not."""
        if self.look is None or self.policy is None or not isinstance(self.action, Refuse):
            return None
        retirement = None if (key := self.action.key_id) is None else self.look.seen.journal.key(key).retirement
        if self.action.reason is not Reason.STILL_USED or retirement is None:
            return None
        return held_too_long_since(self.policy, retirement, self.looked_at)

    @property
    def status(self) -> PrincipalStatus | None:
        """As the journal would have it after this look; None: a step comes first, or there was no look."""
        outcome = self._outcome()
        return None if outcome is None else status_of(outcome)

    def _outcome(self) -> Outcome | None:
        if self.look is None or not isinstance(self.action, Rest):
            return None
        return Outcome(
            seen=self.look.seen,
            policy=self.look.policy,
            rest=self.action,
            state=state_of(self.look.seen, self.action),
            looked_at=self.looked_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The users of one account, as IAM lists them now."""

    account_id: AccountId
    users: tuple[Principal, ...]
    concerned: tuple[Principal, ...]
    """Those that a policy manages or may manage, and those with something unfinished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    fleet: Fleet

    def list(self, account_id: AccountId) -> Listed:
        """Raises what IAM and the journal raise. Teaches the fleet which places are taken."""
        fleet = self.fleet
        users = fleet.cloud.iam(account_id).list_users()
        fleet.places.learn(account_id, users)
        unfinished = fleet.journal.open_users(account_id)
        concerned = tuple(
            user
            for user in users
            if user.user_id in unfinished or select(fleet.rules.policies, user).selection is not Selection.LEFT
        )
        return Listed(account_id=account_id, users=users, concerned=concerned)

    def look_at_all(
        self, principals: Sequence[Principal], *, on_each: Callable[[], object] = lambda: None
    ) -> Iterator[Foreseen]:
        """In the given order; users that are gone meanwhile are left out."""
        with ThreadPoolExecutor(self.fleet.settings.max_parallel, thread_name_prefix="look") as pool:
            looks = [pool.submit(copy_context().run, self.look_at, principal) for principal in principals]
            for look in looks:
                foreseen = look.result()
                on_each()
                if not isinstance(foreseen.error, NotFoundError):
                    yield foreseen

    def look_at(self, principal: Principal, *, asked: Asked | None = None) -> Foreseen:
        """One user; its own failure is in the answer (P9). StoppingError comes through."""
        policy = select(self.fleet.rules.policies, principal).policy
        now = self.fleet.clock.now()
        try:
            look, action = self._decided(principal, asked)
        except StoppingError:
            raise
        except Error as error:
            return Foreseen(principal=principal, policy=policy, looked_at=now, error=error)
        return Foreseen(principal=look.seen.principal, policy=look.policy, looked_at=now, look=look, action=action)

    def _decided(self, principal: Principal, asked: Asked | None) -> tuple[Look, Action]:
        fleet = self.fleet
        observer = fleet.reconciler.observer
        iam = fleet.cloud.iam(principal.account_id)
        around = Circumstances(
            gate=fleet.gates.gate(principal.account_id),
            own_arns=frozenset({fleet.cloud.sts.caller_identity(principal.account_id).arn}),
            collides=fleet.places.collides,
            unlisted=fleet.places.unlisted,
        )
        proof: HeldProof | None = None
        while True:
            look = observer.look(
                iam, principal.user_name, known_of=fleet.journal.known, around=around, asked=asked, proof=proof
            )
            action = decide(look.seen, look.policy, fleet.clock.now())
            if not isinstance(action, ProveHeld) or action.publishes is not None or proof is not None:
                return look, action
            proof = self._proven(look)
            if proof is None:
                return look, action

    def _proven(self, look: Look) -> HeldProof | None:
        """None: Vault serves another version by now."""
        held, executor = look.seen.vault, self.fleet.reconciler.executor
        if not isinstance(held, VaultHeld):
            return None
        pair = executor.vault.read_pair(look.seen.place, held.version)
        if pair is None or pair.access_key_id != held.access_key_id:
            return None
        prover = Prover(sts=executor.cloud.sts, clock=executor.clock, region=executor.rules.region)
        policy = look.policy if look.policy is not None else Policy(name="")
        return prover.once(pair, look.seen.principal, policy, version=held.version)
