"""The in-memory world keeps the outside's rules: AWS and the virtual clock."""

from datetime import timedelta

import pytest

from rekeyd.core.model import (
    AccessKeyId,
    CreateIntent,
    KeyStatus,
    NeverUsed,
    Proof,
    RotationId,
    Used,
    UserId,
    UseUnknown,
)
from rekeyd.errors import (
    AccessDeniedError,
    LeaseLostError,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    StoppingError,
    TemporaryError,
)
from rekeyd.ports import CreatedKey
from tests.world import ACCOUNT, START, Crash, Hand, Lags, World, lost

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


def free() -> None:
    """A guard that lets everything pass."""


def lease_lost() -> None:
    raise LeaseLostError("account 111122223333: the lease is lost")


@pytest.fixture
def world() -> World:
    world = World(seed=7)
    world.account(ACCOUNT)
    return world


def create(world: World, name: str = "ci", operation_id: str = "op-1") -> CreatedKey:
    return world.cloud.iam(world.account().id).create_access_key(name, operation_id=operation_id, guard=free)


def intent(operation_id: str) -> CreateIntent:
    return CreateIntent(rotation_id=RotationId("r1"), operation_id=operation_id, sent_at=START, keys_before=frozenset())


# --- clock -----------------------------------------------------------------------------------------------------------


def test_sleep_is_instant_and_events_happen_on_the_way_in_order(world: World) -> None:
    seen: list[str] = []
    world.clock.after(2 * SECOND, lambda: seen.append(f"b {world.clock.now() - START}"))
    world.clock.after(SECOND, lambda: seen.append(f"a {world.clock.now() - START}"))
    world.clock.after(MINUTE, lambda: seen.append("too late"))
    world.clock.sleep(3 * SECOND)
    assert seen == ["a 0:00:01", "b 0:00:02"]
    assert world.clock.now() == START + 3 * SECOND
    assert world.clock.monotonic() == 3.0
    assert world.clock.pending == 1


def test_a_stop_in_the_middle_of_a_sleep_ends_it_there(world: World) -> None:
    world.clock.after(MINUTE, world.clock.stop)
    with pytest.raises(StoppingError, match="asked to stop"):
        world.clock.sleep(HOUR)
    assert world.clock.now() == START + MINUTE
    with pytest.raises(StoppingError, match="asked to stop"):
        world.clock.sleep(SECOND)
    world.clock.resume()
    world.clock.sleep(SECOND)


def test_a_jump_of_the_wall_clock_leaves_monotonic_time_alone(world: World) -> None:
    world.clock.advance(SECOND)
    world.clock.jump(-HOUR)
    assert world.clock.now() == START + SECOND - HOUR
    assert world.clock.monotonic() == 1.0


# --- users -----------------------------------------------------------------------------------------------------------


def test_user_names_are_unique_without_regard_to_case(world: World) -> None:
    made = world.operators.create_user(ACCOUNT, "Deploy", path="/ci/", tags={"team": "a"})
    with pytest.raises(RefusedError, match="the name is taken"):
        world.operators.create_user(ACCOUNT, "DEPLOY")
    found = world.cloud.iam(made.account_id).get_user("deploy")
    assert found == made
    assert found.arn == f"arn:aws:iam::{ACCOUNT}:user/ci/Deploy"
    assert found.tags == {"team": "a"}


def test_the_arn_names_the_partition() -> None:
    world = World()
    world.account("999900001111", partition="aws-us-gov")
    assert world.user("999900001111", "ci").arn == "arn:aws-us-gov:iam::999900001111:user/ci"


def test_a_user_made_again_is_another_one(world: World) -> None:
    old = world.user(ACCOUNT, "ci")
    new = world.operators.recreate_user(ACCOUNT, "ci")
    assert new.user_name == old.user_name
    assert new.user_id != old.user_id
    assert world.cloud.iam(old.account_id).list_access_keys("ci") == ()


def test_a_renamed_user_keeps_its_id_and_keys(world: World) -> None:
    old = world.user(ACCOUNT, "ci")
    new = world.operators.rename_user(ACCOUNT, "ci", "build", path="/x/")
    iam = world.cloud.iam(old.account_id)
    assert (new.user_id, new.arn) == (old.user_id, f"arn:aws:iam::{ACCOUNT}:user/x/build")
    assert len(iam.list_access_keys("build")) == 1
    with pytest.raises(NotFoundError, match="no such user"):
        iam.get_user("ci")


def test_unreadable_tags_are_none(world: World) -> None:
    principal = world.user(ACCOUNT, "ci", tags={"a": "b"})
    world.account().tags_unreadable = True
    world.account().forget_principals()
    assert world.cloud.iam(principal.account_id).list_users()[0].tags is None


# --- keys ------------------------------------------------------------------------------------------------------------


def test_two_keys_are_the_quota_and_inactive_ones_count(world: World) -> None:
    world.user(ACCOUNT, "ci", age=100 * DAY)
    made = create(world)
    world.operators.deactivate(made.pair.access_key_id)
    with pytest.raises(LimitExceededError, match="AccessKeysPerUser: 2"):
        create(world, operation_id="op-2")
    world.operators.add_key(ACCOUNT, "ci")
    assert len(world.keys(ACCOUNT, "ci")) == 3


def test_create_dates_have_whole_seconds(world: World) -> None:
    world.user(ACCOUNT, "ci", age=None)
    world.clock.advance(timedelta(microseconds=1_400_000))
    made = create(world)
    assert made.created_at == START + SECOND
    assert world.keys(ACCOUNT, "ci")[0].created_at == START + SECOND


def test_a_lost_lease_has_no_effect(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    iam = world.cloud.iam(principal.account_id)
    key = world.keys(ACCOUNT, "ci")[0]
    with pytest.raises(LeaseLostError, match="the lease is lost"):
        iam.create_access_key("ci", operation_id="op", guard=lease_lost)
    with pytest.raises(LeaseLostError, match="the lease is lost"):
        iam.update_access_key("ci", key.id, KeyStatus.INACTIVE, guard=lease_lost)
    with pytest.raises(LeaseLostError, match="the lease is lost"):
        iam.delete_access_key("ci", key.id, guard=lease_lost)
    assert world.keys(ACCOUNT, "ci") == (key,)
    assert world.violations == []


def test_a_key_that_is_gone_is_deleted_and_cannot_be_updated(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    iam = world.cloud.iam(principal.account_id)
    iam.delete_access_key("ci", AccessKeyId("AKIANOSUCHKEY"), guard=free)
    iam.delete_access_key("nobody", AccessKeyId("AKIANOSUCHKEY"), guard=free)
    with pytest.raises(NotFoundError, match="no such key"):
        iam.update_access_key("ci", AccessKeyId("AKIANOSUCHKEY"), KeyStatus.INACTIVE, guard=free)


def test_a_new_key_is_honoured_only_after_its_delay_and_per_region(world: World) -> None:
    world.lags.new_key = (5 * SECOND, 5 * SECOND)
    world.lags.region_extra["ap-east-1"] = MINUTE
    principal = world.user(ACCOUNT, "ci", age=None)
    pair = create(world).pair
    assert world.sts.prove(pair, principal) is Proof.NOT_HONOURED
    world.clock.advance(5 * SECOND)
    assert world.sts.prove(pair, principal) is Proof.ACCEPTED
    assert world.sts.prove(pair, principal, region="ap-east-1") is Proof.NOT_HONOURED
    world.clock.advance(MINUTE)
    assert world.sts.prove(pair, principal, region="ap-east-1") is Proof.ACCEPTED


@pytest.mark.parametrize("verb", ["deactivate", "delete_key"])
def test_a_dead_key_is_honoured_a_little_longer(world: World, verb: str) -> None:
    world.lags.dead_key = (3 * SECOND, 3 * SECOND)
    principal = world.user(ACCOUNT, "ci")
    pair = world.pair(world.keys(ACCOUNT, "ci")[0].id)
    getattr(world.operators, verb)(pair.access_key_id)
    world.clock.advance(2 * SECOND)
    assert world.sts.prove(pair, principal) is Proof.ACCEPTED
    world.clock.advance(SECOND)
    assert world.sts.prove(pair, principal) is Proof.NOT_HONOURED


def test_a_reactivated_key_is_honoured_after_the_delay_of_a_new_one(world: World) -> None:
    world.lags.new_key = (5 * SECOND, 5 * SECOND)
    world.user(ACCOUNT, "ci")
    key_id = world.keys(ACCOUNT, "ci")[0].id
    world.operators.deactivate(key_id)
    world.clock.advance(HOUR)
    world.operators.reactivate(key_id)
    assert not world.use_key(key_id)
    world.clock.advance(5 * SECOND)
    assert world.use_key(key_id)


def test_the_delay_is_the_same_for_the_same_seed_and_differs_between_regions() -> None:
    def waits(seed: int) -> dict[str, int]:
        world = World(seed=seed, lags=Lags(new_key=(SECOND, 100 * SECOND)))
        world.user(ACCOUNT, "ci", age=None)
        key_id = create(world).pair.access_key_id
        regions = ("eu-central-1", "us-east-1", "ap-east-1")
        found = dict.fromkeys(regions, 0)
        for second in range(101):
            for region in regions:
                found[region] = found[region] or (second if world.aws.honoured(world.key(key_id), region) else 0)
            world.clock.advance(SECOND)
        return found

    assert waits(1) == waits(1)
    assert len(set(waits(1).values())) == 3
    assert waits(1) != waits(2)


def test_a_proof_tells_the_verdicts_apart(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    other = world.user(ACCOUNT, "other")
    mine = world.pair(world.keys(ACCOUNT, "ci")[0].id)
    theirs = world.pair(world.keys(ACCOUNT, "other")[0].id)
    mixed = type(mine)(access_key_id=mine.access_key_id, secret_access_key=theirs.secret_access_key)
    assert world.sts.prove(mine, principal) is Proof.ACCEPTED
    assert world.sts.prove(mixed, principal) is Proof.WRONG_SECRET
    assert world.sts.prove(theirs, principal) is Proof.OTHER_PRINCIPAL
    world.sts.down = True
    assert world.sts.prove(theirs, other) is Proof.UNAVAILABLE


def test_lists_may_lag_behind(world: World) -> None:
    world.lags.listing = 10 * SECOND
    principal = world.user(ACCOUNT, "ci", age=None)
    iam = world.cloud.iam(principal.account_id)
    create(world)
    assert iam.list_access_keys("ci") == ()
    world.clock.advance(10 * SECOND)
    assert len(iam.list_access_keys("ci")) == 1


def test_lists_may_flap_between_the_old_and_the_new_state(world: World) -> None:
    world.lags.listing = MINUTE
    world.lags.listing_flaps = True
    principal = world.user(ACCOUNT, "ci", age=None)
    iam = world.cloud.iam(principal.account_id)
    create(world)
    assert {len(iam.list_access_keys("ci")) for _ in range(50)} == {0, 1}
    world.clock.advance(MINUTE)
    assert {len(iam.list_access_keys("ci")) for _ in range(50)} == {1}


# --- last use, report, summary, trail --------------------------------------------------------------------------------


def test_the_last_use_comes_late_and_once_in_fifteen_minutes(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    iam = world.cloud.iam(principal.account_id)
    key_id = world.keys(ACCOUNT, "ci")[0].id
    assert world.use_key(key_id, service="s3", region="eu-west-1")
    assert iam.last_use(key_id) == NeverUsed()
    world.clock.advance(14 * MINUTE)
    assert world.use_key(key_id, service="ec2")
    world.clock.advance(10 * MINUTE)
    assert iam.last_use(key_id) == Used(at=START, service="s3", region="eu-west-1")
    world.use_key(key_id, service="ec2")
    world.clock.advance(10 * MINUTE)
    assert iam.last_use(key_id) == Used(at=START + 24 * MINUTE, service="ec2", region="eu-central-1")


def test_a_refused_call_is_no_use(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    key_id = world.keys(ACCOUNT, "ci")[0].id
    world.operators.deactivate(key_id)
    world.clock.advance(MINUTE)
    assert not world.use_key(key_id)
    world.clock.advance(HOUR)
    assert world.cloud.iam(principal.account_id).last_use(key_id) == NeverUsed()


def test_a_last_use_that_cannot_be_had_is_unknown(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    iam = world.cloud.iam(principal.account_id)
    assert isinstance(iam.last_use(AccessKeyId("AKIANOSUCHKEY")), UseUnknown)
    world.account().denied.add("last_use")
    assert isinstance(iam.last_use(world.keys(ACCOUNT, "ci")[0].id), UseUnknown)


def test_the_report_is_kept_for_four_hours(world: World) -> None:
    principal = world.user(ACCOUNT, "ci", age=100 * DAY)
    iam = world.cloud.iam(principal.account_id)
    first = iam.credential_report(max_wait=MINUTE)
    create(world)
    world.clock.advance(3 * HOUR)
    assert iam.credential_report(max_wait=MINUTE) is first
    world.clock.advance(HOUR)
    second = iam.credential_report(max_wait=MINUTE)
    assert second.generated_at > first.generated_at
    assert [len(report.users[principal.arn].keys) for report in (first, second)] == [1, 2]


def test_a_report_takes_its_time(world: World) -> None:
    world.lags.report_takes = 30 * SECOND
    iam = world.cloud.iam(world.account().id)
    with pytest.raises(TemporaryError, match="still being made"):
        iam.credential_report(max_wait=20 * SECOND)
    assert iam.credential_report(max_wait=20 * SECOND).generated_at == START + 30 * SECOND


def test_the_report_counts_two_keys_in_the_order_of_their_ids_and_says_that_there_are_more(world: World) -> None:
    principal = world.user(ACCOUNT, "ci", age=3 * DAY)
    world.operators.add_key(ACCOUNT, "ci", age=2 * DAY, status=KeyStatus.INACTIVE)
    world.operators.add_key(ACCOUNT, "ci", age=DAY)
    row = world.cloud.iam(principal.account_id).credential_report(max_wait=MINUTE).users[principal.arn]
    by_id = sorted(world.keys(ACCOUNT, "ci"), key=lambda key: key.id)[:2]
    assert row.more_credentials
    assert [key.created_at for key in row.keys] == [key.created_at for key in by_id]


def test_the_summary_is_live_and_counts_an_inactive_root_key(world: World) -> None:
    iam = world.cloud.iam(world.account().id)
    iam.credential_report(max_wait=MINUTE)
    assert not iam.account_summary().root_access_keys_present
    world.operators.add_root_key(ACCOUNT, active=False)
    assert iam.account_summary().root_access_keys_present
    stale = iam.credential_report(max_wait=MINUTE)
    assert stale.root is not None
    assert stale.root.keys == ()
    world.clock.advance(4 * HOUR)
    fresh = iam.credential_report(max_wait=MINUTE)
    assert fresh.root is not None
    assert (fresh.root.user_name, [key.active for key in fresh.root.keys]) == ("<root_account>", [False])
    world.operators.remove_root_keys(ACCOUNT)
    assert not iam.account_summary().root_access_keys_present


def test_the_trail_names_our_operation_minutes_later_and_nobody_elses(world: World) -> None:
    principal = world.user(ACCOUNT, "ci", age=None)
    iam = world.cloud.iam(principal.account_id)
    ours = create(world, operation_id="op-1").pair.access_key_id
    theirs = world.operators.create_key(ACCOUNT, "ci").access_key_id
    assert iam.who_created([intent("op-1")], "ci") == {}
    world.clock.advance(12 * MINUTE)
    assert iam.who_created([intent("op-1")], "CI") == {ours: "op-1", theirs: None}
    assert iam.who_created([intent("op-2")], "ci") == {ours: None, theirs: None}
    world.account().cloudtrail = False
    assert iam.who_created([intent("op-1")], "ci") is None


# --- switches and faults ---------------------------------------------------------------------------------------------


def test_the_switches_of_an_account_touch_only_that_account(world: World) -> None:
    other = world.account("222233334444")
    iam = world.cloud.iam(world.account().id)
    world.account().unreachable = True
    with pytest.raises(TemporaryError, match="cannot be sent"):
        iam.list_users()
    assert world.cloud.iam(other.id).list_users() == ()
    world.account().unreachable = False
    world.account().throttled = 1
    with pytest.raises(TemporaryError, match="throttled"):
        iam.list_users()
    world.account().denied.add("list_users")
    with pytest.raises(AccessDeniedError, match="list_users is denied"):
        iam.list_users()
    other.unwatched = "suspended"
    assert world.cloud.accounts().watched == (ACCOUNT,)
    assert world.cloud.accounts().unwatched == {"222233334444": "suspended"}


def test_the_caller_is_a_role_unless_a_test_says_otherwise(world: World) -> None:
    identity = world.sts.caller_identity(world.account().id)
    assert identity.account_id == ACCOUNT
    assert not identity.is_root
    assert world.sts.credentials_expire_at(world.account().id) is None


@pytest.mark.parametrize(("when", "keys"), [("before", 0), ("after", 1)])
def test_a_fault_strikes_the_nth_call_before_or_after_the_effect(world: World, when: str, keys: int) -> None:
    world.user(ACCOUNT, "ci", age=None)
    world.user(ACCOUNT, "first", age=None)
    world.fault("iam.create_access_key", nth=2, when="before" if when == "before" else "after", error=lost("create"))
    create(world, "first", "op-1")
    with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
        create(world, "ci", "op-2")
    assert len(world.keys(ACCOUNT, "ci")) == keys
    create(world, "ci", "op-3")


def test_a_persistent_fault_with_a_glob_lasts_until_it_is_removed(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    iam = world.cloud.iam(principal.account_id)
    with world.fault(
        "iam.*", times=None, error=TemporaryError("down"), where=lambda a: a.get("user_name") == "ci"
    ) as f:
        for _ in range(3):
            with pytest.raises(TemporaryError, match="down"):
                iam.list_access_keys("ci")
        assert len(iam.list_users()) == 1
        assert f.hits == 3
    assert len(iam.list_access_keys("ci")) == 1


def test_a_create_may_land_late(world: World) -> None:
    world.user(ACCOUNT, "ci", age=None)
    world.late("iam.create_access_key", delay=MINUTE)
    with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
        create(world)
    assert world.keys(ACCOUNT, "ci") == ()
    world.clock.advance(MINUTE)
    key = world.keys(ACCOUNT, "ci")[0]
    assert (world.key(key.id).made_by, world.key(key.id).operation_id) == (Hand.REKEYD, "op-1")


def test_aws_refuses_a_signature_of_more_than_fifteen_minutes(world: World) -> None:
    world.user(ACCOUNT, "ci", age=None)
    world.late("iam.create_access_key", delay=16 * MINUTE)
    with pytest.raises(OutcomeUnknownError, match="the answer was lost"):
        create(world)
    world.clock.advance(HOUR)
    assert world.keys(ACCOUNT, "ci") == ()


def test_a_hook_sees_every_call_without_secrets_and_can_crash_at_any(world: World) -> None:
    world.user(ACCOUNT, "ci", age=None)
    seen: list[tuple[str, str]] = []

    def hook(name: str, phase: str, args: object) -> None:
        seen.append((name, phase))
        if len(seen) == 4:
            raise Crash

    remove = world.on_call(hook)
    world.cloud.iam(world.account().id).list_users()
    with pytest.raises(Crash):
        create(world)
    remove()
    assert seen == [
        ("iam.list_users", "before"),
        ("iam.list_users", "after"),
        ("iam.create_access_key", "before"),
        ("iam.create_access_key", "after"),
    ]
    assert len(world.keys(ACCOUNT, "ci")) == 1
    assert [(call.name, call.outcome) for call in world.calls] == [
        ("iam.list_users", "ok"),
        ("iam.create_access_key", "Crash"),
    ]
    secret = world.key(world.keys(ACCOUNT, "ci")[0].id).secret
    assert secret not in repr(world.calls)


def test_calls_can_be_counted_without_being_kept() -> None:
    world = World(keep_calls=False)
    iam = world.cloud.iam(world.account().id)
    iam.list_users()
    assert (world.calls, world.counts["iam.list_users"]) == ([], 1)


def test_a_call_takes_time_if_the_test_says_so(world: World) -> None:
    world.points.latency = SECOND
    world.cloud.iam(world.account().id).list_users()
    assert world.clock.now() == START + SECOND


def test_ids_look_like_those_of_aws(world: World) -> None:
    principal = world.user(ACCOUNT, "ci")
    key = world.keys(ACCOUNT, "ci")[0]
    assert principal.user_id.startswith("AIDA")
    assert len(UserId(principal.user_id)) == 21
    assert key.id.startswith("AKIA")
    assert len(key.id) == 20
    assert len(world.key(key.id).secret) == 40
