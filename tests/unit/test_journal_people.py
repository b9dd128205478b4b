"""Requests of people, what `status` shows, alarms and the brake."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from rekeyd.core.model import Asked, RotationKind, UserId
from rekeyd.core.reasons import Reason
from rekeyd.errors import NotFoundError
from rekeyd.ports import AccountStatus, Alarm, Brake, PrincipalStatus
from tests.unit.journal_stand import ACCOUNT, CI, DAY, MINUTE, NEW, OLD, OTHER_ACCOUNT, Stand, in_memory, user


@pytest.fixture
def stand() -> Iterator[Stand]:
    with in_memory() as stand:
        yield stand


def ask(stand: Stand, name: str = "ci", *, emergency: bool = False, rollback: bool = False) -> int:
    asked = Asked(by="user:ops", at=stand.clock.now(), emergency=emergency, rollback=rollback)
    return stand.journal.ask(ACCOUNT, name, asked)


def test_a_request_is_kept_as_asked(stand: Stand) -> None:
    asked = Asked(by="user:ops", at=stand.clock.now(), replace=OLD)
    request = stand.journal.request(stand.journal.ask(ACCOUNT, "ci", asked))
    assert (request.asked, request.answer, request.begun, request.user_name) == (asked, None, False, "ci")
    assert stand.events()[-1] == "rotation.asked"


def test_emergencies_come_first_then_age(stand: Stand) -> None:
    first = ask(stand, "a")
    stand.clock.advance(MINUTE)
    second = ask(stand, "b")
    stand.clock.advance(MINUTE)
    emergency = ask(stand, "c", emergency=True)
    assert [request.id for request in stand.journal.requests(ACCOUNT)] == [emergency, first, second]
    assert stand.journal.requests(OTHER_ACCOUNT) == ()


def test_an_answered_request_is_no_longer_open_and_keeps_its_first_answer(stand: Stand) -> None:
    request_id = ask(stand)
    stand.journal.answer(request_id, "refused", reason=Reason.STRAY_KEY, at=stand.clock.now())
    stand.journal.answer(request_id, "published", reason=None, at=stand.clock.now())
    request = stand.journal.request(request_id)
    assert (request.answer, request.reason) == ("refused", Reason.STRAY_KEY)
    assert stand.journal.requests() == ()
    assert [r.id for r in stand.journal.requests(open_only=False)] == [request_id]
    assert stand.events().count("request.served") == 1


def test_an_unknown_request_is_not_found(stand: Stand) -> None:
    with pytest.raises(NotFoundError, match="there is no request 7"):
        stand.journal.request(7)


def test_a_request_can_be_withdrawn_until_it_is_begun(stand: Stand) -> None:
    early = ask(stand)
    assert stand.journal.withdraw(early, at=stand.clock.now())
    assert stand.journal.request(early).answer == "withdrawn"
    assert not stand.journal.withdraw(early, at=stand.clock.now())
    late = ask(stand, "CI")
    rotation_id = stand.open()
    assert not stand.journal.request(late).begun
    stand.intend(rotation_id)
    assert stand.journal.request(late).begun
    assert not stand.journal.withdraw(late, at=stand.clock.now())
    assert stand.journal.request(late).answer is None


def test_only_special_requests_are_begun_by_a_change(stand: Stand) -> None:
    plain = ask(stand)
    emergency = ask(stand, emergency=True)
    stranger = ask(stand, "web", emergency=True)
    stand.account.change_intended(CI, OLD, verb="deactivate", reason=Reason.ENDED_EARLY, at=stand.clock.now())
    assert [stand.journal.request(i).begun for i in (plain, emergency, stranger)] == [False, True, False]


def test_a_publication_grants_the_requests_of_its_user(stand: Stand) -> None:
    mine, other = ask(stand, "Ci"), ask(stand, "web")
    stand.publish()
    assert stand.journal.request(mine).answer == "published"
    assert stand.journal.request(other).answer is None


@pytest.mark.parametrize(
    ("kind", "asked_before_opening", "granted"),
    [
        (RotationKind.NORMAL, False, False),
        (RotationKind.NORMAL, True, True),
        (RotationKind.EMERGENCY, False, True),
        (RotationKind.ADOPT, False, True),
    ],
)
def test_an_emergency_is_granted_by_a_rotation_that_knew_of_it(
    stand: Stand, *, kind: RotationKind, asked_before_opening: bool, granted: bool
) -> None:
    if asked_before_opening:
        request_id = ask(stand, emergency=True)
    rotation_id = stand.create(kind=kind)
    stand.clock.advance(MINUTE)
    if not asked_before_opening:
        request_id = ask(stand, emergency=True)
    stand.record_published(rotation_id, NEW)
    assert (stand.journal.request(request_id).answer == "published") is granted


def test_a_rollback_grants_rollbacks_only(stand: Stand) -> None:
    plain, back = ask(stand), ask(stand, rollback=True)
    rotation_id = stand.open(kind=RotationKind.ROLLBACK, old=NEW, target=OLD)
    stand.account.publish_intended(CI, rotation_id, cas=4, at=stand.clock.now())
    assert [stand.journal.request(i).begun for i in (plain, back)] == [False, True]
    stand.record_published(rotation_id, OLD, version=5)
    assert [stand.journal.request(i).answer for i in (plain, back)] == [None, "published"]


def status(stand: Stand, user_id: str = "AIDACI", name: str = "ci") -> PrincipalStatus:
    return PrincipalStatus(
        account_id=ACCOUNT,
        user_name=name,
        user_id=UserId(user_id),
        policy="default",
        state="overlap",
        reason=Reason.IN_OVERLAP,
        message="consumers have time",
        held_access_key_id=NEW,
        old_access_key_id=OLD,
        held_created_at=stand.clock.now(),
        oldest_active_at=stand.clock.now() - DAY,
        next_at=stand.clock.now() + DAY,
        looked_at=stand.clock.now(),
    )


def test_a_status_is_replaced_and_dropped(stand: Stand) -> None:
    stand.journal.save_status(status(stand))
    newer = replace(status(stand), state="quarantine", reason=Reason.IN_QUARANTINE, next_at=None)
    stand.journal.save_statuses([newer, status(stand, "AIDAWEB", "a-web")])
    assert stand.journal.statuses(ACCOUNT) == (status(stand, "AIDAWEB", "a-web"), newer)
    assert stand.journal.statuses(OTHER_ACCOUNT) == ()
    stand.journal.drop_status(ACCOUNT, [UserId("AIDAWEB")])
    assert stand.journal.statuses() == (newer,)


REFUSED = {"state": "refused", "reason": Reason.STRAY_KEY}
NEWS: dict[str, tuple[dict[str, object], bool]] = {
    "the same refusal a day later": ({**REFUSED, "message": "8 days old"}, False),
    "another reason": ({**REFUSED, "reason": Reason.BAD_PATH}, True),
    "another key": ({**REFUSED, "old_access_key_id": NEW}, True),
    "another held key": ({**REFUSED, "held_access_key_id": None}, True),
    "a hold": ({"state": "on_hold", "reason": Reason.STILL_USED}, True),
    "a failure, which is recorded elsewhere": ({"state": "refused", "reason": Reason.STEP_FAILED}, False),
    "no refusal": ({}, False),
}


@pytest.mark.parametrize("case", NEWS)
def test_a_refusal_is_recorded_when_it_is_another_than_before(stand: Stand, case: str) -> None:
    changes, is_news = NEWS[case]
    stand.journal.save_status(replace(status(stand), **REFUSED), actor="user:ann")  # type: ignore[arg-type]
    before = stand.journal.head().seq
    stand.clock.advance(DAY)
    stand.journal.save_status(replace(status(stand), **changes))  # type: ignore[arg-type]
    first, *second = [e for e in stand.journal.history() if e.event in ("principal.refused", "principal.held")]
    assert (first.event, first.reason, first.actor) == ("principal.refused", Reason.STRAY_KEY, "user:ann")
    assert (first.access_key_id, first.detail) == (OLD, {"message": "consumers have time"})
    assert stand.journal.head().seq - before == len(second) == is_news
    for each in second:
        assert each.event == ("principal.held" if case == "a hold" else "principal.refused")


def test_an_accounts_status_is_replaced(stand: Stand) -> None:
    seen = AccountStatus(
        account_id=ACCOUNT,
        alias=None,
        state="unreachable",
        message="denied",
        last_pass_at=None,
        last_drift_at=None,
        principals=0,
        due=0,
    )
    stand.journal.save_account(seen)
    well = replace(seen, alias="prod", state="ok", message="", last_pass_at=stand.clock.now(), principals=3, due=1)
    stand.journal.save_account(well)
    assert stand.journal.account_statuses() == (well,)


def alarm(stand: Stand) -> Alarm:
    return Alarm(
        fingerprint="111122223333/root/root_access_key",
        severity="critical",
        reason="root_access_key",
        account_id=ACCOUNT,
        principal=None,
        message="the root user has an access key",
        remedy="delete it",
        cis=("1.4", "2.3"),
        first_seen_at=stand.clock.now(),
        last_seen_at=stand.clock.now(),
        notified_at=None,
    )


def test_an_alarm_begins_once_repeats_quietly_and_ends_once(stand: Stand) -> None:
    first = alarm(stand)
    stand.journal.save_alarm(first)
    assert stand.journal.alarms() == (first,)
    stand.clock.advance(DAY)
    again = replace(first, last_seen_at=stand.clock.now(), notified_at=stand.clock.now())
    stand.journal.save_alarm(again)
    assert stand.journal.alarms() == (again,)
    over = replace(again, resolved_at=stand.clock.now())
    stand.journal.save_alarm(over)
    stand.journal.save_alarm(over)
    assert stand.journal.alarms() == ()
    assert stand.journal.alarms(open_only=False) == (over,)
    stand.journal.save_alarm(replace(first, first_seen_at=stand.clock.now()))
    assert stand.events()[-3:] == ["alarm.raised", "alarm.resolved", "alarm.raised"]


def brake(stand: Stand, *, fleet: bool = False) -> Brake:
    return Brake(
        account_id=None if fleet else ACCOUNT,
        engaged_at=stand.clock.now(),
        retry_at=stand.clock.now() + DAY,
        failures=5,
        detail="five users failed",
    )


def test_a_brake_is_engaged_moved_and_released(stand: Stand) -> None:
    mine, fleet = brake(stand), brake(stand, fleet=True)
    stand.journal.engage_brake(mine, at=stand.clock.now())
    stand.journal.engage_brake(fleet, at=stand.clock.now())
    moved = replace(mine, retry_at=stand.clock.now() + 2 * DAY)
    stand.journal.engage_brake(moved, at=stand.clock.now())
    assert stand.journal.brakes() == (moved, fleet)
    assert stand.journal.release_brake(ACCOUNT, actor="user:ops", at=stand.clock.now())
    assert not stand.journal.release_brake(ACCOUNT, actor="user:ops", at=stand.clock.now())
    assert stand.journal.brakes() == (fleet,)
    assert stand.journal.release_brake(None, actor="user:ops", at=stand.clock.now())
    assert stand.events()[-2:] == ["brake.released", "brake.released"]


def test_failures_in_a_row_count_different_users_of_one_account(stand: Stand) -> None:
    def note(name: str, *, failed: bool, account: str = ACCOUNT) -> int:
        return stand.journal.note_issue_result(type(ACCOUNT)(account), UserId(name), failed=failed)

    assert [note("A", failed=True), note("A", failed=True), note("B", failed=True)] == [1, 1, 2]
    assert note("A", failed=True, account=OTHER_ACCOUNT) == 1
    assert note("C", failed=False) == 0
    assert note("A", failed=True) == 1
    assert note("B", failed=True, account=OTHER_ACCOUNT) == 2


def test_a_released_brake_starts_counting_anew(stand: Stand) -> None:
    stand.journal.note_issue_result(ACCOUNT, CI.user_id, failed=True)
    stand.journal.engage_brake(brake(stand), at=stand.clock.now())
    stand.journal.release_brake(ACCOUNT, actor="user:ops", at=stand.clock.now())
    assert stand.journal.note_issue_result(ACCOUNT, user("web", "AIDAWEB").user_id, failed=True) == 1
