"""Proving a pair: how often, where, how long, and what counts as a refusal."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from rekeyd.core.model import AccessKeyId, AccountId, HeldProof, LastUse, NeverUsed, Principal, Proof, Used, UseUnknown
from rekeyd.core.policy import Policy
from rekeyd.core.secret import Secret
from rekeyd.errors import AccessDeniedError, Error, StoppingError
from rekeyd.ports import CallerIdentity, Pair
from rekeyd.reconcile.prove import Prover
from tests.unit.test_decide import NEW, NOW, OLD, USER
from tests.world import VirtualClock

HOME, ABROAD = "us-east-1", "eu-west-1"
SECOND = timedelta(seconds=1)
PAIR = Pair(access_key_id=NEW, secret_access_key=Secret("rT7/wN3xKq+D6mJv9ZbPf2sCg5Ha8LeUoY4iQ1kB"))
POLICY = Policy(
    name="p", verify_first=3 * SECOND, verify_probes=3, verify_spacing=SECOND, verify_timeout=timedelta(seconds=20)
)
YES, NOT_YET, WRONG, DENIED = Proof.ACCEPTED, Proof.NOT_HONOURED, Proof.WRONG_SECRET, Proof.UNAVAILABLE


@dataclass(slots=True)
class Sts:
    """Answers in the order given, then the last one for ever; remembers when and where it was asked."""

    clock: VirtualClock
    answers: list[Proof] = field(default_factory=list)
    own_calls: Error | None = None
    asked: list[tuple[float, str | None]] = field(default_factory=list)

    def prove(self, pair: Pair, principal: Principal, *, region: str | None = None) -> Proof:
        assert (pair, principal) == (PAIR, USER)
        self.asked.append((self.clock.monotonic(), region))
        return self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)

    def caller_identity(self, account_id: AccountId) -> CallerIdentity:
        assert account_id == USER.account_id
        if self.own_calls is not None:
            raise self.own_calls
        return CallerIdentity(account_id=account_id, arn=f"arn:aws:iam::{account_id}:user/rekeyd", user_id="AIDAREKEYD")

    def credentials_expire_at(self, account_id: AccountId) -> datetime | None:
        assert account_id == USER.account_id
        return None

    @property
    def asked_at(self) -> list[float]:
        """Seconds from the beginning."""
        return [at for at, _ in self.asked]


@dataclass(slots=True)
class Iam:
    uses: Mapping[AccessKeyId, LastUse]

    def last_use(self, key_id: AccessKeyId) -> LastUse:
        return self.uses[key_id]


def prover(*answers: Proof, own_calls: Error | None = None) -> tuple[Prover, Sts]:
    clock = VirtualClock()
    sts = Sts(clock, list(answers), own_calls)
    return Prover(sts=sts, clock=clock, region=HOME), sts


def until_accepted(*answers: Proof, policy: Policy = POLICY, regions: tuple[str, ...] = (HOME,)) -> tuple[Proof, Sts]:
    made, sts = prover(*answers)
    return made.until_accepted(PAIR, USER, policy, regions), sts


# --- a new pair -------------------------------------------------------------------------------------------------------


def test_the_first_probe_waits_and_three_in_a_row_are_enough() -> None:
    result, sts = until_accepted(YES)
    assert (result, sts.asked_at) == (YES, [3, 4, 5])


def test_a_refusal_starts_the_row_again() -> None:
    result, sts = until_accepted(YES, YES, NOT_YET, YES, YES, YES, YES)
    assert (result, len(sts.asked)) == (YES, 6)
    result, sts = until_accepted(YES, YES, WRONG, YES, YES, YES, YES)
    assert (result, len(sts.asked)) == (YES, 6)


def test_a_probe_without_a_verdict_neither_counts_nor_starts_it_again() -> None:
    result, sts = until_accepted(YES, DENIED, YES, DENIED, YES, YES)
    assert (result, len(sts.asked)) == (YES, 5)


def test_every_region_wants_its_own_row() -> None:
    result, sts = until_accepted(YES, YES, YES, YES, NOT_YET, YES, YES, YES, YES, regions=(HOME, ABROAD))
    assert result is YES
    assert [region for _, region in sts.asked] == [HOME] * 3 + [ABROAD] * 5


def test_another_principal_ends_it_at_once() -> None:
    result, sts = until_accepted(YES, Proof.OTHER_PRINCIPAL)
    assert (result, len(sts.asked)) == (Proof.OTHER_PRINCIPAL, 2)


def test_it_gives_up_when_the_time_is_out_with_the_last_refusal() -> None:
    for answer in (NOT_YET, WRONG, DENIED):
        result, sts = until_accepted(answer)
        assert result is answer
        assert sts.asked_at == list(range(3, 24))


def test_what_was_not_accepted_often_enough_in_time_is_not_honoured() -> None:
    short = replace(POLICY, verify_timeout=SECOND)
    result, sts = until_accepted(YES, policy=short)
    assert (result, sts.asked_at) == (NOT_YET, [3, 4])
    result, sts = until_accepted(YES, policy=replace(POLICY, verify_timeout=2 * SECOND))
    assert (result, sts.asked_at) == (YES, [3, 4, 5])


def test_one_probe_is_one_probe() -> None:
    result, sts = until_accepted(YES, policy=replace(POLICY, verify_probes=1))
    assert (result, sts.asked_at) == (YES, [3])


def test_a_stopping_process_stops_between_probes() -> None:
    made, sts = prover(NOT_YET)
    sts.clock.after(5 * SECOND, sts.clock.stop)
    with pytest.raises(StoppingError, match="asked to stop"):
        made.until_accepted(PAIR, USER, POLICY, (HOME,))
    assert len(sts.asked) == 2


# --- in which Regions -------------------------------------------------------------------------------------------------


def _used(region: str) -> Used:
    return Used(at=NOW, service="s3", region=region)


REGIONS: dict[str, tuple[LastUse, tuple[str, ...]]] = {
    "where the old key was last used": (_used(ABROAD), (HOME, ABROAD)),
    "once, if that is at home": (_used(HOME), (HOME,)),
    "at home only, if the use had no Region": (_used("N/A"), (HOME,)),
    "at home only, if it is not told": (_used(""), (HOME,)),
    "at home only, if the old key was never used": (NeverUsed(), (HOME,)),
    "at home only, if its use is unknown": (UseUnknown("denied"), (HOME,)),
}


@pytest.mark.parametrize("case", REGIONS)
def test_a_new_pair_is_proven(case: str) -> None:
    use, expected = REGIONS[case]
    made, _ = prover()
    assert made.regions(POLICY, Iam({OLD: use}), OLD) == expected  # type: ignore[arg-type]


def test_without_an_old_key_a_new_pair_is_proven_at_home() -> None:
    made, _ = prover()
    assert made.regions(POLICY, Iam({}), None) == (HOME,)  # type: ignore[arg-type]


def test_a_list_of_regions_is_taken_as_it_is() -> None:
    made, _ = prover()
    listed = replace(POLICY, verify_regions=(ABROAD,))
    assert made.regions(listed, Iam({}), OLD) == (ABROAD,)  # type: ignore[arg-type]


# --- the held pair ----------------------------------------------------------------------------------------------------

ONCE: dict[str, tuple[list[Proof], Proof, int, int]] = {
    "accepted at once": ([YES], YES, 0, 1),
    "refused twice": ([NOT_YET], NOT_YET, 2, 2),
    "refused with both spellings": ([WRONG, NOT_YET], NOT_YET, 2, 2),
    "refused once and then accepted": ([NOT_YET, YES], YES, 1, 2),
    "refused once and then without a verdict": ([NOT_YET, DENIED], DENIED, 1, 2),
    "without a verdict": ([DENIED], DENIED, 0, 1),
    "somebody else's": ([Proof.OTHER_PRINCIPAL], Proof.OTHER_PRINCIPAL, 0, 1),
}


@pytest.mark.parametrize("case", ONCE)
def test_the_held_pair_is(case: str) -> None:
    answers, result, refusals, asked = ONCE[case]
    made, sts = prover(*answers)
    proof = made.once(PAIR, USER, POLICY, version=7)
    assert proof == HeldProof(version=7, access_key_id=NEW, result=result, refusals=refusals)
    assert sts.asked == [(float(second), None) for second in range(asked)]


def test_a_wrong_secret_is_no_verdict_while_our_own_calls_fail() -> None:
    made, sts = prover(WRONG, own_calls=AccessDeniedError("clock skew"))
    proof = made.once(PAIR, USER, POLICY, version=7)
    assert (proof.result, proof.refusals, len(sts.asked)) == (DENIED, 0, 1)
