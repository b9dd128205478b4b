"""Selection and due dates."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from rekeyd.core.model import AccountId, Principal, Selection, UserId
from rekeyd.core.policy import (
    Freeze,
    Match,
    Policy,
    Selected,
    due_at,
    jitter,
    lead_time,
    minimum_max_age,
    select,
    step_time,
)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
CI = Principal(
    account_id=AccountId("111122223333"),
    user_name="ci-Build",
    user_id=UserId("AIDACI"),
    path="/service/build/",
    arn="arn:aws:iam::111122223333:user/service/build/ci-Build",
    tags={"Key-Rotation": "managed", "team": "payments"},
)
UNREAD = replace(CI, tags=None)

MATCHES: dict[str, tuple[Match, Principal, bool | None]] = {
    "nothing given matches everybody": (Match(), CI, True),
    "a glob of the name": (Match(users=("ci-*",)), CI, True),
    "without regard to case": (Match(users=("CI-BUILD",)), CI, True),
    "another name": (Match(users=("web-*",)), CI, False),
    "any of several globs": (Match(users=("web-*", "*build")), CI, True),
    "its account": (Match(accounts=("111122223333",)), CI, True),
    "another account": (Match(accounts=("444455556666",)), CI, False),
    "the beginning of its path": (Match(paths=("/service/",)), CI, True),
    "another path": (Match(paths=("/people/",)), CI, False),
    "a tag, its key without regard to case": (Match(tags={"key-rotation": "managed"}), CI, True),
    "a glob of a tag's value": (Match(tags={"team": "pay*"}), CI, True),
    "a tag's value with regard to case": (Match(tags={"team": "Payments"}), CI, False),
    "a tag that is not there": (Match(tags={"owner": "*"}), CI, False),
    "all of several tags": (Match(tags={"team": "*", "owner": "*"}), CI, False),
    "all conditions together": (Match(users=("ci-*",), paths=("/people/",)), CI, False),
    "unread tags, and tags are asked for": (Match(tags={"team": "*"}), UNREAD, None),
    "unread tags, and the name already differs": (Match(users=("web-*",), tags={"team": "*"}), UNREAD, False),
    "unread tags that nobody asks for": (Match(users=("ci-*",)), UNREAD, True),
}


@pytest.mark.parametrize("case", MATCHES)
def test_a_policy_selects(case: str) -> None:
    match, principal, expected = MATCHES[case]
    policy = Policy(name="p", match=match)
    selected = select([policy], principal)
    if expected is None:
        assert selected == Selected(selection=Selection.UNKNOWN, policy=None)
    elif expected:
        assert selected == Selected(selection=Selection.MANAGED, policy=policy)
    else:
        assert selected == Selected(selection=Selection.LEFT, policy=None)


EXCLUDES: dict[str, tuple[Match, Principal, Selection]] = {
    "nothing excluded": (Match(), CI, Selection.MANAGED),
    "its name": (Match(users=("ci-*",)), CI, Selection.LEFT),
    "its account": (Match(accounts=("111122223333",)), CI, Selection.LEFT),
    "its path": (Match(paths=("/service/",)), CI, Selection.LEFT),
    "one of its tags": (Match(tags={"team": "payments", "owner": "*"}), CI, Selection.LEFT),
    "none of these": (
        Match(users=("web-*",), accounts=("4",), paths=("/x/",), tags={"owner": "*"}),
        CI,
        Selection.MANAGED,
    ),
    "unread tags": (Match(tags={"owner": "*"}), UNREAD, Selection.UNKNOWN),
    "unread tags, but the name is enough": (Match(users=("ci-*",), tags={"owner": "*"}), UNREAD, Selection.LEFT),
}


@pytest.mark.parametrize("case", EXCLUDES)
def test_any_condition_of_exclude_is_enough(case: str) -> None:
    exclude, principal, expected = EXCLUDES[case]
    assert select([Policy(name="p", exclude=exclude)], principal).selection is expected


def test_the_first_match_wins() -> None:
    first, second = Policy(name="first", match=Match(users=("ci-*",))), Policy(name="second")
    assert select([first, second], CI).policy is first
    assert select([first, second], replace(CI, user_name="web")).policy is second


def test_an_exclusion_is_not_overruled_by_a_broader_policy() -> None:
    first = Policy(name="first", match=Match(users=("ci-*",)), exclude=Match(users=("ci-build",)))
    selected = select([first, Policy(name="second")], CI)
    assert selected == Selected(selection=Selection.LEFT, policy=None, excluded_by="first")


def test_unread_tags_of_an_earlier_policy_leave_it_open() -> None:
    first = Policy(name="first", match=Match(tags={"team": "*"}))
    assert select([first, Policy(name="second")], UNREAD).selection is Selection.UNKNOWN


def test_the_lead_is_what_may_pass_before_a_due_rotation_is_finished() -> None:
    step = step_time(verify_first=timedelta(seconds=3), verify_timeout=2 * HOUR, publish_timeout=4 * HOUR)
    assert step == timedelta(hours=6, seconds=3)
    assert lead_time(longest_closed=DAY, scan_every=HOUR, step=step) == timedelta(hours=31, seconds=3)


def test_the_least_max_age_holds_two_overlaps_quarantine_silence_and_lead() -> None:
    least = minimum_max_age(overlap=2 * DAY, quarantine=7 * DAY, unused_for=DAY, lead=HOUR)
    assert least == 12 * DAY + HOUR


def test_a_rotation_is_due_before_max_age_by_overlap_and_lead() -> None:
    policy = Policy(name="p", max_age=20 * DAY, overlap=2 * DAY, quarantine=DAY, unused_for=DAY, lead=15 * DAY - DAY)
    made = datetime(2026, 1, 1, tzinfo=UTC)
    assert policy.max_age - minimum_max_age(
        overlap=policy.overlap, quarantine=policy.quarantine, unused_for=policy.unused_for, lead=policy.lead
    ) == timedelta(0)
    assert jitter(policy, CI) == timedelta(0)
    assert due_at(policy, CI, made) == made + 4 * DAY


def test_jitter_is_stable_differs_between_users_and_only_brings_forward() -> None:
    policy = Policy(name="p")
    users = [replace(CI, user_id=UserId(f"AIDA{n}")) for n in range(200)]
    spans = [jitter(policy, user) for user in users]
    assert spans == [jitter(policy, user) for user in users]
    assert len(set(spans)) == len(users)
    assert all(timedelta(0) <= span < DAY for span in spans)
    assert max(spans) > 0.9 * DAY
    assert min(spans) < 0.1 * DAY


def test_jitter_depends_on_the_account_too() -> None:
    policy = Policy(name="p")
    assert jitter(policy, CI) != jitter(policy, replace(CI, account_id=AccountId("444455556666")))


def test_jitter_is_at_most_a_fiftieth_of_max_age() -> None:
    policy = Policy(name="p", max_age=50 * HOUR, overlap=HOUR, quarantine=HOUR, unused_for=HOUR, lead=timedelta(0))
    spans = [jitter(policy, replace(CI, user_id=UserId(f"AIDA{n}"))) for n in range(200)]
    assert all(span < HOUR for span in spans)
    assert max(spans) > 0.9 * HOUR


@pytest.mark.parametrize(
    ("at", "frozen"),
    [
        ("2026-12-19T23:59:59", False),
        ("2026-12-20T00:00:00", True),
        ("2027-01-04T23:59:59", True),
        ("2027-01-05", False),
    ],
)
def test_a_freeze_holds_from_its_first_to_its_last_day(at: str, *, frozen: bool) -> None:
    freeze = Freeze(first_day=date(2026, 12, 20), last_day=date(2027, 1, 4), reason="year end")
    assert freeze.covers(datetime.fromisoformat(at).replace(tzinfo=UTC)) is frozen
