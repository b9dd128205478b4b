"""What the journal knows after each step of a rotation."""

from collections.abc import Iterator

import pytest

from rekeyd.core.model import AccessKeyId, IssueState, RetireWhy, RotationId, RotationKind
from rekeyd.core.reasons import Reason
from rekeyd.errors import JournalError
from rekeyd.ports import AccountJournal, Journal
from tests.unit.journal_stand import ACCOUNT, CI, DAY, MINUTE, NEW, OLD, PLACE, Stand, in_memory, user


@pytest.fixture
def stand() -> Iterator[Stand]:
    with in_memory() as stand:
        yield stand


def test_the_journal_is_what_the_rules_ask_for(stand: Stand) -> None:
    journal: Journal = stand.journal
    account: AccountJournal = stand.account
    assert journal.holder == account.lease.holder


def test_nothing_is_known_of_a_user_never_seen(stand: Stand) -> None:
    known = stand.account.known(CI)
    assert known.user_name is None
    assert known.facts.rotation is None
    assert not known.facts.keys
    assert not known.managed_before
    assert known.anchor is None


def test_an_opened_rotation_is_open(stand: Stand) -> None:
    opened = stand.account.open_rotation(
        CI,
        kind=RotationKind.EMERGENCY,
        reason=Reason.EMERGENCY,
        asked_by="user:ops",
        old_key_id=OLD,
        target=None,
        at=stand.clock.now(),
    )
    assert stand.rotation() == opened
    assert (opened.kind, opened.asked_by, opened.state) == (RotationKind.EMERGENCY, "user:ops", IssueState.OPENED)
    assert stand.account.known(CI).managed_before
    assert stand.account.known(CI).user_name == "ci"


def test_a_user_has_one_open_rotation(stand: Stand) -> None:
    stand.open()
    with pytest.raises(JournalError, match="has an open rotation already"):
        stand.open()
    stand.open(user("web", "AIDAWEB"))


def test_an_intent_names_all_that_explains_an_orphan(stand: Stand) -> None:
    rotation_id = stand.open()
    stand.clock.advance(MINUTE)
    stand.intend(rotation_id)
    rotation = stand.rotation()
    assert (rotation.state, rotation.cas, rotation.keys_before) == (IssueState.CREATING, 3, frozenset({OLD}))
    assert rotation.create_sent_at == stand.clock.now()
    (intent,) = stand.facts().unresolved
    assert (intent.operation_id, intent.rotation_id) == (rotation.operation_id, rotation_id)
    assert stand.account.known(CI).last_change_at == stand.clock.now()


def test_a_made_key_is_ours_and_its_intent_resolved(stand: Stand) -> None:
    rotation_id = stand.open()
    stand.intend(rotation_id)
    sent_at = stand.clock.now()
    stand.clock.advance(MINUTE)
    stand.account.created(CI, rotation_id, NEW, at=stand.clock.now())
    facts = stand.key(NEW)
    assert (facts.made_by, facts.cas, facts.made_at, facts.published) == (rotation_id, 3, sent_at, False)
    assert (stand.rotation().state, stand.rotation().new_key_id) == (IssueState.CREATED, NEW)
    assert stand.facts().unresolved == ()


def test_a_key_that_was_certainly_not_made_reopens_the_rotation(stand: Stand) -> None:
    rotation_id = stand.open()
    stand.intend(rotation_id)
    stand.account.not_created(CI, rotation_id, reason=Reason.NO_FREE_SLOT, at=stand.clock.now())
    rotation = stand.rotation()
    assert (rotation.state, rotation.operation_id, rotation.create_sent_at) == (IssueState.OPENED, None, None)
    assert stand.facts().unresolved == ()
    stand.clock.advance(MINUTE)
    stand.intend(rotation_id)
    assert stand.rotation().state is IssueState.CREATING


def test_a_lost_answer_stays_unresolved_when_the_rotation_is_closed_for_ninety_days(stand: Stand) -> None:
    rotation_id = stand.open()
    stand.intend(rotation_id)
    stand.account.create_unknown(CI, rotation_id, detail="read timeout", at=stand.clock.now())
    assert stand.rotation().state is IssueState.CREATING
    stand.account.close_rotation(CI, rotation_id, reason=Reason.NOT_CREATED, completed=False, at=stand.clock.now())
    assert stand.facts().rotation is None
    stand.clock.advance(90 * DAY)
    assert [intent.rotation_id for intent in stand.facts().unresolved] == [rotation_id]
    assert CI.user_id in stand.journal.open_users(ACCOUNT)
    stand.clock.advance(MINUTE)
    assert stand.facts().unresolved == ()
    assert CI.user_id not in stand.journal.open_users(ACCOUNT)


def test_a_late_key_of_a_closed_rotation_is_ours_and_does_not_reopen_it(stand: Stand) -> None:
    first = stand.open()
    stand.intend(first)
    stand.account.close_rotation(CI, first, reason=Reason.NOT_CREATED, completed=False, at=stand.clock.now())
    second = stand.open()
    stand.account.created(CI, first, NEW, at=stand.clock.now())
    assert stand.key(NEW).made_by == first
    assert (stand.rotation().id, stand.rotation().state) == (second, IssueState.OPENED)
    assert stand.facts().unresolved == ()


def test_publishing_starts_the_old_keys_overlap(stand: Stand) -> None:
    rotation_id = stand.create()
    stand.account.publish_intended(CI, rotation_id, cas=3, at=stand.clock.now())
    assert stand.rotation().state is IssueState.PUBLISHING
    stand.account.held_dead(CI, since=stand.clock.now())
    stand.clock.advance(MINUTE)
    stand.record_published(rotation_id, NEW)
    now = stand.clock.now()
    known = stand.account.known(CI)
    assert (stand.rotation().state, stand.rotation().published_at) == (IssueState.PUBLISHED, now)
    assert (stand.retirement().why, stand.retirement().started_at) == (RetireWhy.OVERLAP, now)
    assert stand.key(NEW).published
    assert stand.key(NEW).retirement is None
    assert known.facts.held_dead_since is None
    assert known.facts.proven_version == 4
    assert known.facts.publication is not None
    assert (known.facts.publication.access_key_id, known.facts.publication.place) == (NEW, PLACE)
    assert known.anchor is not None
    assert (known.anchor.access_key_id, known.anchor.version) == (NEW, 4)
    assert stand.journal.publications() == {(ACCOUNT, CI.user_id): PLACE}


def test_a_rollback_retires_the_newer_key_and_keeps_the_restored_one(stand: Stand) -> None:
    first = stand.publish()
    stand.change("deactivate")
    stand.account.close_rotation(CI, first, reason=Reason.ROLLBACK, completed=False, at=stand.clock.now())
    back = stand.open(kind=RotationKind.ROLLBACK, old=NEW, target=OLD)
    assert stand.rotation().new_key_id == OLD
    stand.change("reactivate")
    stand.account.publish_intended(CI, back, cas=4, at=stand.clock.now())
    stand.record_published(back, OLD, version=5)
    assert stand.key(OLD).retirement is None
    assert stand.key(OLD).made_by is None
    assert stand.retirement(NEW).why is RetireWhy.ROLLED_BACK
    assert stand.facts().restored_key_id == OLD
    assert "rollback.opened" in stand.events()


def test_the_next_rotation_forgets_the_restored_key(stand: Stand) -> None:
    back = stand.open(kind=RotationKind.ROLLBACK, old=NEW, target=OLD)
    stand.account.publish_intended(CI, back, cas=4, at=stand.clock.now())
    stand.record_published(back, OLD, version=5)
    stand.account.close_rotation(CI, back, reason=Reason.ROTATION_COMPLETE, completed=True, at=stand.clock.now())
    rotation_id = stand.open()
    stand.intend(rotation_id)
    stand.account.created(CI, rotation_id, AccessKeyId("AKIATHIRD"), at=stand.clock.now())
    stand.record_published(rotation_id, AccessKeyId("AKIATHIRD"), version=6)
    assert stand.facts().restored_key_id is None


def test_a_key_of_another_rotation_is_never_recorded_as_published(stand: Stand) -> None:
    rotation_id = stand.create()
    with pytest.raises(JournalError, match="made AKIANEW, but AKIAOLD was published"):
        stand.record_published(rotation_id, OLD)


def test_a_burned_version_is_remembered(stand: Stand) -> None:
    rotation_id = stand.create()
    stand.account.burned(CI, rotation_id, version=4, at=stand.clock.now())
    assert stand.rotation().burned_version == 4


def test_a_completed_rotation_leaves_nothing_open(stand: Stand) -> None:
    rotation_id = stand.publish()
    assert stand.journal.open_users(ACCOUNT) == {CI.user_id: "ci"}
    stand.account.close_rotation(CI, rotation_id, reason=Reason.ROTATION_COMPLETE, completed=True, at=stand.clock.now())
    assert stand.journal.open_users(ACCOUNT) == {}


@pytest.mark.parametrize("state", ["opened", "creating", "created", "published", "closed"])
def test_steps_out_of_order_are_refused(stand: Stand, state: str) -> None:
    now = stand.clock.now()
    rotation_id = stand.publish() if state in ("published", "closed") else stand.open()
    if state in ("creating", "created"):
        stand.intend(rotation_id)
    if state == "created":
        stand.account.created(CI, rotation_id, NEW, at=now)
    if state == "closed":
        stand.account.close_rotation(CI, rotation_id, reason=Reason.ROTATION_COMPLETE, completed=True, at=now)
    match state:
        case "opened":
            with pytest.raises(JournalError, match="never meant to create"):
                stand.account.created(CI, rotation_id, NEW, at=now)
            with pytest.raises(JournalError, match="no key to publish"):
                stand.account.publish_intended(CI, rotation_id, cas=3, at=now)
        case "creating" | "created":
            with pytest.raises(JournalError, match="out of order"):
                stand.intend(rotation_id)
        case "published":
            with pytest.raises(JournalError, match="out of order"):
                stand.record_published(rotation_id, NEW)
        case _:
            with pytest.raises(JournalError, match="is closed"):
                stand.account.publish_intended(CI, rotation_id, cas=3, at=now)
    assert stand.journal.verify().broken_at is None


def test_a_refused_step_leaves_no_trace(stand: Stand) -> None:
    rotation_id = stand.open()
    before = stand.journal.head()
    with pytest.raises(JournalError, match="no key to publish"):
        stand.account.publish_intended(CI, rotation_id, cas=3, at=stand.clock.now())
    assert stand.journal.head() == before


def test_a_rotation_of_another_user_is_not_touched(stand: Stand) -> None:
    rotation_id = stand.open()
    with pytest.raises(JournalError, match="has no rotation"):
        stand.account.burned(user("web", "AIDAWEB"), rotation_id, version=4, at=stand.clock.now())
    with pytest.raises(JournalError, match="has no rotation"):
        stand.account.burned(CI, RotationId("unheard-of"), version=4, at=stand.clock.now())


def test_a_user_of_another_account_is_refused(stand: Stand) -> None:
    foreign = user(account_id=type(ACCOUNT)("999900001111"))
    with pytest.raises(JournalError, match="is not of account 111122223333"):
        stand.open(foreign)


def test_a_recreated_user_is_told_from_its_predecessor(stand: Stand) -> None:
    stand.open(user("ci", "AIDAFIRST"))
    again = user("CI", "AIDASECOND")
    assert stand.account.known(again).name_taken_by == "AIDAFIRST"
    assert stand.account.known(user("ci", "AIDAFIRST")).name_taken_by is None


def test_a_user_that_only_failed_does_not_take_its_name(stand: Stand) -> None:
    stand.account.failed(
        user("ci", "AIDAFIRST"),
        error="no",
        retry_at=stand.clock.now(),
        counts_for_brake=False,
        at=stand.clock.now(),
    )
    assert stand.account.known(user("ci", "AIDASECOND")).name_taken_by is None


def test_a_managed_users_old_name_stays_until_something_is_done_under_the_new_one(stand: Stand) -> None:
    rotation_id = stand.publish()
    renamed = user("renamed", CI.user_id)
    stand.account.failed(renamed, error="no", retry_at=stand.clock.now(), counts_for_brake=False, at=stand.clock.now())
    assert stand.account.known(renamed).user_name == "ci"
    stand.account.close_rotation(CI, rotation_id, reason=Reason.REPAIR, completed=False, at=stand.clock.now())
    stand.open(renamed)
    assert stand.account.known(renamed).user_name == "renamed"


def test_rotations_are_counted_from_a_time_on(stand: Stand) -> None:
    stand.open()
    stand.clock.advance(DAY)
    since = stand.clock.now()
    stand.open(user("web", "AIDAWEB"))
    assert stand.journal.rotations_opened_since(since) == 1
    assert stand.journal.rotations_opened_since(since - DAY) == 2


def test_a_forgotten_user_leaves_its_name_and_nothing_open(stand: Stand) -> None:
    stand.publish()
    stand.account.change_intended(CI, OLD, verb="deactivate", reason=Reason.DUE, at=stand.clock.now())
    stand.account.forget(CI, reason="deleted in IAM", at=stand.clock.now())
    assert stand.journal.open_users(ACCOUNT) == {}
    assert stand.account.known(user("ci", "AIDASECOND")).name_taken_by is None
    assert stand.facts().rotation is None
    assert stand.journal.publications() == {}
    assert "key.published" in stand.events()


def test_looking_needs_no_lease(stand: Stand) -> None:
    stand.publish()
    held = stand.account.known(CI)
    stand.journal.release(stand.account.lease)
    assert stand.journal.known(CI) == held
