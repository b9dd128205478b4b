"""Bring one principal up to date: look, decide, do one thing, look again, until there is nothing to do now."""

from dataclasses import dataclass, field
from datetime import datetime

from rekeyd.core.actions import Action, Close, IssueKey, Refuse, Rest, Step, Wait, only_looks, publishes
from rekeyd.core.decide import decide
from rekeyd.core.events import Event
from rekeyd.core.model import Asked, HeldProof, IssueState, Observed
from rekeyd.core.policy import Policy
from rekeyd.core.reasons import Reason
from rekeyd.core.state import state_of
from rekeyd.errors import Error, PostponedError, TemporaryError
from rekeyd.logs import bound, get_logger
from rekeyd.ports import AccountJournal, Iam
from rekeyd.reconcile.execute import Executor
from rekeyd.reconcile.observe import KnownOf, Look, Observer
from rekeyd.reconcile.rules import Circumstances

log = get_logger()

# A whole emergency (end the other key's time, rotate, deactivate) is about 12 steps. More means that a step
# succeeds without changing what is seen; better stop and say so than spin against AWS.
MAX_STEPS = 40

# Rotations that end so did not do what they were opened for; a person hears of them, and the next try waits.
_FAILED_ENDS = frozenset({Reason.NOT_CREATED, Reason.NEW_KEY_GONE, Reason.ROLLBACK_TARGET_GONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one reconcile came to."""

    seen: Observed
    policy: Policy | None
    rest: Rest
    state: str
    looked_at: datetime
    steps: tuple[Step, ...] = ()


class StepFailedError(Error):
    """A step of a principal failed; `cause` says how."""

    code = "step_failed"

    def __init__(self, cause: Error, *, steps: tuple[Step, ...], look: Look | None, create_sent: bool) -> None:
        super().__init__(cause.message, hint=cause.hint)
        self.cause = cause
        self.steps = steps
        self.look = look
        self.create_sent = create_sent
        """Whether CreateAccessKey was, or may have been, sent for the step that failed."""


@dataclass(slots=True)
class _Progress:
    proof: HeldProof | None = None
    steps: list[Step] = field(default_factory=list)
    look: Look | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    observer: Observer
    executor: Executor

    def plan(
        self, iam: Iam, user_name: str, *, known_of: KnownOf, around: Circumstances, asked: Asked | None = None
    ) -> tuple[Look, Action]:
        """The next action, without doing it or writing anything down."""
        look = self.observer.look(iam, user_name, known_of=known_of, around=around, asked=asked)
        return look, decide(look.seen, look.policy, self.observer.clock.now())

    def run(
        self,
        iam: Iam,
        journal: AccountJournal,
        user_name: str,
        *,
        around: Circumstances,
        asked: Asked | None = None,
    ) -> Outcome:
        """Until there is nothing to do now. NotFoundError: no such user. StepFailedError: with the cause."""
        progress = _Progress()
        with bound(principal=user_name):
            for _ in range(MAX_STEPS):
                outcome = self._once(iam, journal, user_name, around, asked, progress)
                if outcome is not None:
                    return outcome
        raise StepFailedError(
            TemporaryError(f"{user_name} did not come to rest after {MAX_STEPS} steps"),
            steps=tuple(progress.steps),
            look=progress.look,
            create_sent=False,
        )

    def _once(
        self,
        iam: Iam,
        journal: AccountJournal,
        user_name: str,
        around: Circumstances,
        asked: Asked | None,
        progress: _Progress,
    ) -> Outcome | None:
        if any(publishes(step) for step in progress.steps):
            asked = None  # fulfilled
        look = self.observer.look(
            iam, user_name, known_of=journal.known, around=around, asked=asked, proof=progress.proof
        )
        progress.look = look
        for note in look.notes:
            note(journal)
        if look.notes:
            self.executor.raise_mark()  # a look may have voided a clock
        now = self.observer.clock.now()
        action = decide(look.seen, look.policy, now)
        log.debug(Event.PRINCIPAL_LOOKED, action=type(action).__name__, reason=action.reason)
        if isinstance(action, Rest):
            return self._outcome(look, action, now, progress)
        if around.observing and not only_looks(action):
            return self._outcome(look, Refuse(reason=Reason.OBSERVE_MODE), now, progress)
        policy = look.policy if look.policy is not None else Policy(name="")
        try:
            proof = self.executor.execute(action, iam, journal, look, policy)
        except PostponedError as postponed:
            rest = Refuse(reason=postponed.reason, until=postponed.until)
            return self._outcome(look, rest, now, progress)
        except Error as error:
            raise StepFailedError(
                error,
                steps=tuple(progress.steps),
                look=look,
                create_sent=self._create_sent(action, journal, look),
            ) from error
        progress.proof = proof if proof is not None else progress.proof
        progress.steps.append(action)
        if isinstance(action, Close) and not action.completed and action.reason in _FAILED_ENDS:
            raise StepFailedError(
                TemporaryError(f"the rotation ended without a new key: {action.reason.sentence}"),
                steps=tuple(progress.steps),
                look=look,
                create_sent=False,
            )
        return None

    def _outcome(self, look: Look, rest: Rest, now: datetime, progress: _Progress) -> Outcome:
        return Outcome(
            seen=look.seen,
            policy=look.policy,
            rest=rest,
            state=state_of(look.seen, rest),
            looked_at=now,
            steps=tuple(progress.steps),
        )

    def _create_sent(self, action: Step, journal: AccountJournal, look: Look) -> bool:
        """Whether the failed step was an issue that got as far as the irreversible call."""
        if not isinstance(action, IssueKey):
            return False
        try:
            rotation = journal.known(look.seen.principal).facts.rotation
        except Error:
            return True
        return rotation is None or rotation.state is not IssueState.OPENED


def again_at(rest: Rest) -> datetime | None:
    """When a rest could change by itself; None: only from outside."""
    match rest:
        case Wait(until=until) | Refuse(until=until):
            return until
        case _:
            return None
