"""An account is looked at in few calls; what cannot be read is said, and ends no alarm."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from rekeyd.adapters.journal import open_journal
from rekeyd.core.findings import AccountSeen, ManagedSeen, check, root_state, undecided
from rekeyd.core.model import AccessKeyId, AccountId, UserId
from rekeyd.core.policy import Policy
from rekeyd.core.reasons import Reason
from rekeyd.errors import StoppingError, TemporaryError
from rekeyd.fleet.alarms import AlarmKeeper, Notice, Scope
from rekeyd.fleet.posture import (
    REPORT_LIFE,
    Part,
    account_findings,
    gather,
    managed_seen,
    newer_of,
    principal_findings,
    unwatched,
    with_report,
)
from rekeyd.ports import AccountStatus, Alarm, Brake, ExposureNotice, Journal, PrincipalStatus
from tests.conftest import LogLines
from tests.world import ACCOUNT, START, World
from tests.world.aws import RootKey

ID = AccountId(ACCOUNT)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
CHECK_EVERY = timedelta(minutes=15)


@pytest.fixture
def world() -> World:
    world = World(seed=3)
    world.account(ACCOUNT, alias="shop")
    return world


@pytest.fixture
def journal(world: World) -> Iterator[Journal]:
    journal = open_journal("sqlite://", instance="test", clock=world.clock)
    yield journal
    journal.close()


class RootWatch:
    """What a daemon does every `check_every`; a new one is a restarted daemon."""

    def __init__(self, world: World, journal: Journal) -> None:
        self.world = world
        self.keeper = AlarmKeeper(journal=journal, clock=world.clock, repeat_every=4 * HOUR)
        self.seen: AccountSeen | None = None

    def check(self) -> list[tuple[str, str]]:
        """Passes a quarter of an hour, looks, and returns what was announced."""
        self.world.clock.advance(CHECK_EVERY)
        iam = self.world.cloud.iam(ID)
        self.seen = gather(iam, self.world.clock, previous=self.seen, managed={})
        announced = self.keeper.update(
            Scope.posture(ID), check(self.seen, self.world.clock.now()), undecided=undecided(self.seen)
        )
        return [(kind.value, alarm.reason) for kind, alarm in announced]

    @property
    def state(self) -> float:
        assert self.seen is not None
        return root_state(self.seen)


@pytest.fixture
def watch(world: World, journal: Journal) -> RootWatch:
    return RootWatch(world, journal)


def add_root_key(world: World, *, active: bool = True) -> None:
    world.account().root_keys.append(RootKey(created_at=world.clock.now(), active=active))


RAISED = [(Notice.RAISED.value, "root_access_key")]
RESOLVED = [(Notice.RESOLVED.value, "root_access_key")]


# --- calls -----------------------------------------------------------------------------------------------------------


def test_a_day_of_checks_is_one_call_each_and_two_more_for_a_new_report(world: World, watch: RootWatch) -> None:
    for _ in range(96):
        watch.check()
    assert world.counts["iam.account_summary"] == 96
    assert world.counts["iam.credential_report"] <= 7
    assert world.counts["iam.account_alias"] == world.counts["iam.credential_report"]


def test_a_report_that_the_scan_read_is_not_asked_for_again(world: World) -> None:
    iam = world.cloud.iam(ID)
    report = iam.credential_report(max_wait=HOUR)
    seen = with_report(AccountSeen(account_id=ID, seen_at=world.clock.now()), report)
    seen = gather(iam, world.clock, previous=seen)
    assert seen.report is report
    assert world.counts["iam.credential_report"] == 1


def test_an_older_report_does_not_replace_a_newer_one(world: World) -> None:
    iam = world.cloud.iam(ID)
    older = iam.credential_report(max_wait=HOUR)
    world.clock.advance(5 * HOUR)
    seen = gather(iam, world.clock)
    assert seen.report is not None
    assert seen.report.generated_at > older.generated_at
    assert with_report(seen, older) is seen


def test_a_report_is_asked_for_again_exactly_when_its_life_is_over(world: World) -> None:
    iam = world.cloud.iam(ID)
    seen = gather(iam, world.clock)
    assert seen.report is not None
    world.clock.advance_to(seen.report.generated_at + REPORT_LIFE - timedelta(seconds=1))
    assert gather(iam, world.clock, previous=seen).report is seen.report
    assert world.counts["iam.credential_report"] == 1
    world.clock.advance(timedelta(seconds=1))
    gather(iam, world.clock, previous=seen)
    assert world.counts["iam.credential_report"] == 2


def test_cloudtrail_can_be_asked_again_before_its_hour_and_nothing_else_is(world: World) -> None:
    iam = world.cloud.iam(ID)
    seen = gather(iam, world.clock)
    world.clock.advance(timedelta(minutes=3))
    used_at = world.account().root_seen_used_at = world.clock.now()
    assert gather(iam, world.clock, previous=seen).root_seen_used_at is None
    assert gather(iam, world.clock, previous=seen, anew={Part.TRAIL}).root_seen_used_at == used_at
    assert (world.counts["iam.root_used_at"], world.counts["iam.user_rights"]) == (2, 1)


def test_aws_health_that_may_not_be_asked_is_told_and_ends_no_alarm(world: World, watch: RootWatch) -> None:
    account = world.account()
    account.exposure_notices = (
        ExposureNotice(
            code="AWS_RISK_CREDENTIALS_EXPOSED",
            since=world.clock.now(),
            entity="AKIA1",
            user_name="ci",
            key_ids=(AccessKeyId("AKIA1"),),
        ),
    )
    assert (Notice.RAISED.value, "user_compromised") in watch.check()
    account.denied.add("exposure_notices")
    world.clock.advance(HOUR)
    (told,) = [alarm for alarm in _announced(watch) if alarm.reason == "posture_unreadable"]
    assert "exposure_notices" in told.message
    assert "user_compromised" in {alarm.reason for alarm in watch.keeper.open_alarms()}
    account.denied.clear()
    account.exposure_notices = ()
    world.clock.advance(HOUR)
    watch.check()
    assert not {"user_compromised", "posture_unreadable"} & {alarm.reason for alarm in watch.keeper.open_alarms()}


def _announced(watch: RootWatch) -> list[Alarm]:
    watch.check()
    return list(watch.keeper.open_alarms())


def test_a_look_that_was_overtaken_keeps_what_only_it_learnt(world: World) -> None:
    iam = world.cloud.iam(ID)
    before = gather(iam, world.clock)
    world.clock.advance(HOUR)
    used_at = world.account().root_seen_used_at = world.clock.now()
    late = gather(iam, world.clock, previous=before, anew={Part.TRAIL})
    world.clock.advance(HOUR)
    world.account().cloudtrail = False
    newest = gather(iam, world.clock, previous=before)
    both = newer_of(newest, late)
    assert both.root_seen_used_at == used_at
    assert (both.seen_at, both.trail_unreadable) == (newest.seen_at, newest.trail_unreadable)
    assert newer_of(late, before).root_seen_used_at == used_at


def test_a_report_made_while_the_summary_is_read_counts_as_newer(world: World) -> None:
    def slow(name: str, phase: str, _args: object) -> None:
        if (name, phase) == ("iam.account_summary", "after"):
            world.clock.advance(timedelta(seconds=10))

    asked_at = world.clock.now()
    world.on_call(slow)
    assert gather(world.cloud.iam(ID), world.clock).summary_seen_at == asked_at


def test_the_alias_is_kept_with_the_facts(world: World) -> None:
    seen = gather(world.cloud.iam(ID), world.clock)
    assert seen.label == f"{ACCOUNT} (shop)"
    assert gather(world.cloud.iam(ID), world.clock, previous=seen).alias == "shop"


# --- root access keys, from their making to their end ----------------------------------------------------------------


@pytest.mark.parametrize("active", [True, False], ids=["active", "inactive"])
def test_a_root_key_raises_at_the_next_check_and_ends_at_the_check_after_its_deletion(
    active: bool, world: World, watch: RootWatch, log_lines: LogLines
) -> None:
    assert watch.check() == []
    assert watch.state == 0.0
    add_root_key(world, active=active)
    assert watch.check() == RAISED
    assert watch.state == 1.0
    world.account().root_keys.clear()
    assert watch.check() == RESOLVED
    assert watch.state == 0.0
    assert [line["event"] for line in log_lines()] == [
        "root_key.checked",
        "root_key.present",
        "root_key.checked",
        "root_key.cleared",
    ]


def test_a_report_with_the_deleted_key_does_not_raise_it_again(world: World, watch: RootWatch) -> None:
    add_root_key(world)
    watch.check()
    world.account().root_keys.clear()
    assert watch.check() == RESOLVED
    for _ in range(40):
        assert watch.check() == []


def test_an_open_alarm_survives_a_restart_into_an_account_that_cannot_be_read(
    world: World, journal: Journal, watch: RootWatch
) -> None:
    add_root_key(world)
    assert watch.check() == RAISED
    world.account().unreachable = True
    watch = RootWatch(world, journal)
    assert watch.check() == []
    assert watch.check() == []
    assert sorted(watch.check()) == [("raised", "report_unreadable"), ("raised", "root_unreadable")]
    assert {alarm.reason for alarm in journal.alarms()} == {"root_access_key", "root_unreadable", "report_unreadable"}
    world.account().unreachable = False
    world.account().root_keys.clear()
    assert sorted(watch.check()) == [
        ("resolved", "report_unreadable"),
        ("resolved", "root_access_key"),
        ("resolved", "root_unreadable"),
    ]


def test_a_denied_summary_alarms_at_once_and_not_as_clear_when_the_denial_turns_into_an_error(
    world: World, watch: RootWatch
) -> None:
    watch.check()
    world.account().denied.add("account_summary")
    assert watch.check() == [("raised", "root_unreadable")]
    assert watch.state != watch.state  # NaN
    world.account().denied.clear()
    world.fault("iam.account_summary", error=TemporaryError("throttled"))
    assert watch.check() == []
    assert watch.check() == [("resolved", "root_unreadable")]


def test_failures_in_a_row_are_counted_until_one_look_succeeds(world: World, watch: RootWatch) -> None:
    watch.check()
    world.fault("iam.account_summary", error=TemporaryError("throttled"), times=2)
    assert (watch.check(), watch.check(), watch.check()) == ([], [], [])
    world.fault("iam.account_summary", error=TemporaryError("throttled"), times=3)
    assert (watch.check(), watch.check()) == ([], [])
    assert watch.check() == [("raised", "root_unreadable")]


def test_a_report_that_cannot_be_read_leaves_the_summary_to_tell(world: World, watch: RootWatch) -> None:
    world.account().denied.add("credential_report")
    assert watch.check() == [("raised", "report_unreadable")]
    assert watch.state == 0.0
    add_root_key(world)
    assert watch.check() == RAISED


def test_an_account_that_is_excluded_with_its_root_key_open_is_not_clear(
    world: World, journal: Journal, watch: RootWatch
) -> None:
    add_root_key(world)
    watch.check()
    seen = unwatched(ID, "excluded by the configuration", world.clock)
    watch.keeper.update(Scope.posture(ID), check(seen, world.clock.now()), undecided=undecided(seen))
    assert {alarm.reason for alarm in journal.alarms()} == {"root_access_key", "root_unwatched"}
    watch = RootWatch(world, journal)
    assert watch.check() == [("resolved", "root_unwatched")]


def test_an_account_that_is_watched_again_is_looked_at_as_before(world: World, watch: RootWatch) -> None:
    watch.check()
    watch.seen = unwatched(ID, "suspended", world.clock, previous=watch.seen)
    assert watch.state != watch.state  # NaN
    assert watch.check() == []
    assert watch.state == 0.0


def test_a_process_that_is_asked_to_stop_does_not_take_it_for_an_unreadable_account(world: World) -> None:
    world.fault("iam.account_summary", error=StoppingError("the process was asked to stop"))
    with pytest.raises(StoppingError, match="asked to stop"):
        gather(world.cloud.iam(ID), world.clock)


# --- from the journal ------------------------------------------------------------------------------------------------


def status(name: str, reason: Reason, message: str = "") -> PrincipalStatus:
    return PrincipalStatus(
        account_id=ID,
        user_name=name,
        user_id=UserId(f"AIDA{name}"),
        policy="default",
        state="refused",
        reason=reason,
        message=message or reason.sentence,
        held_access_key_id=None,
        old_access_key_id=None,
        held_created_at=None,
        oldest_active_at=START,
        next_at=None,
        looked_at=START + DAY,
    )


def account(state: str) -> AccountStatus:
    return AccountStatus(
        account_id=ID,
        alias=None,
        state=state,
        message="sts:AssumeRole was refused",
        last_pass_at=None,
        last_drift_at=None,
        principals=0,
        due=0,
    )


def brake(account_id: AccountId | None) -> Brake:
    return Brake(
        account_id=account_id, engaged_at=START, retry_at=START + HOUR, failures=5, detail="not proven in time"
    )


def test_only_refused_principals_are_findings() -> None:
    findings = principal_findings(
        [status("a", Reason.NOT_DUE), status("b", Reason.STRAY_KEY, "AKIA1 is a stray key, 90 days old")]
    )
    assert [(f.principal, f.reason, f.message) for f in findings] == [
        ("b", "stray_key", "AKIA1 is a stray key, 90 days old")
    ]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("ok", []),
        ("failing", ["account_failing"]),
        ("unreachable", ["account_unreachable"]),
        ("braked", []),
        ("root_unwatched", []),
    ],
)
def test_accounts_that_do_not_work_are_findings(state: str, expected: list[str]) -> None:
    assert [finding.reason for finding in account_findings([account(state)], [])] == expected


def test_brakes_are_findings_of_their_account_or_of_the_fleet() -> None:
    findings = account_findings([account("braked")], [brake(ID), brake(None)])
    assert [(f.account_id, f.reason) for f in findings] == [(ACCOUNT, "account_braked"), (None, "fleet_braked")]
    assert "5 failures, not proven" in findings[0].message


def test_a_managed_user_is_seen_as_its_last_look_and_its_policy_say() -> None:
    policy = Policy(name="ci", max_age=30 * DAY, unused_after=10 * DAY)
    assert managed_seen(status("a", Reason.STILL_USED), policy) == ManagedSeen(
        user_name="a",
        policy="ci",
        max_age=30 * DAY,
        unused_after=10 * DAY,
        state="refused",
        reason=Reason.STILL_USED,
        oldest_active_at=START,
        looked_at=START + DAY,
    )


def test_a_use_that_cloudtrail_shows_raises_within_the_hour_and_its_end_waits_for_the_week(
    world: World, journal: Journal
) -> None:
    watch = RootWatch(world, journal)
    watch.check()
    world.account(ACCOUNT).root_seen_used_at = world.clock.now()
    told = [pair for _ in range(4) for pair in watch.check()]
    assert ("raised", "root_used") in told
    # CloudTrail fails, or may not be asked any more: what it showed stays seen.
    world.account(ACCOUNT).cloudtrail = False
    told = [pair for _ in range(8) for pair in watch.check()]
    assert ("resolved", "root_used") not in told
    assert watch.seen is not None
    assert watch.seen.trail_unreadable is not None
    assert watch.seen.trail_unreadable.denied
    assert "root_trail_unreadable" not in [alarm.reason for alarm in journal.alarms()], "it is low: listed only"
    world.clock.advance(8 * DAY)
    assert ("resolved", "root_used") in watch.check()
