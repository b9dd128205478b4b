"""The evidence of a whole rotation, in every format, and what is said when the trail was changed."""

import csv
import io
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa

from rekeyd import logs
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import open_journal
from rekeyd.cli.main import ended_with
from rekeyd.core.findings import FindingReason, found
from rekeyd.core.model import AccessKeyId, RotationId
from rekeyd.core.state import State
from rekeyd.errors import TemporaryError
from rekeyd.fleet.ages import ages
from rekeyd.fleet.alarms import AlarmKeeper, Scope
from rekeyd.fleet.documents import time_text
from rekeyd.fleet.evidence import COLUMNS, evidence, rotations, rows
from rekeyd.ports import JournalEvent
from tests.rig import ACCOUNT, DAY, Rig, asked, policy
from tests.secret_registry import write_secret
from tests.world import REGION, Crash


@pytest.fixture(scope="module")
def rig() -> Rig:
    # Made before the first test has a stream of its own; the one of an earlier module's test may be closed.
    logs.configure(style="json", level="critical", stream=io.StringIO(), strict=True)
    rig = due()
    rig.settle("ci", span=60 * DAY)
    return rig


def due(*, journal_points: bool = False) -> Rig:
    rig = Rig(policy(), journal_points=journal_points)
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    return rig


def test_a_rotation_shows_its_proofs_and_the_end_of_the_old_key(rig: Rig) -> None:
    document = evidence(rig.journal, rig.world.clock, since=None)
    assert document["chain"]["broken_at"] is None
    (rotation,) = document["rotations"]
    in_order(rotation, "opened_at", "created_at", "proven_at", "published_at", *ENDS, "closed_at")
    assert rotation["proven_in"] == REGION
    assert rotation["old_key_id"] != rotation["new_key_id"]
    assert rotation["new_key_id"] == rig.world.held_id(ACCOUNT, "ci")
    assert document["principals"][0]["user_name"] == "ci"


ENDS = ("old_key_deactivated_at", "old_key_deleted_at")


def in_order(rotation: dict[str, Any], *steps: str) -> None:
    times = [rotation[name] for name in steps]
    assert None not in times
    assert times == sorted(times)


@pytest.mark.parametrize("dies_at", ["vault.publish", "journal.published", "journal.publish_intended"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_died_at_publishing_leaves_the_proofs_of_the_key_that_was_published(
    dies_at: str, when: Literal["before", "after"]
) -> None:
    rig = due(journal_points=True)
    dying = rig.world.fault(dies_at, error=Crash(), when=when)
    rig.settle("ci", crashes=True, span=60 * DAY)
    assert dying.hits == 1
    begun = evidence(rig.journal, rig.world.clock, since=None)["rotations"]
    in_order(begun[-1], "opened_at", "created_at", "proven_at", "published_at", *ENDS)
    assert begun[-1]["new_key_id"] == rig.world.held_id(ACCOUNT, "ci")
    assert [each["published_at"] for each in begun[:-1]] == [None] * (len(begun) - 1)


def test_a_key_that_was_never_honoured_has_no_proof() -> None:
    made = AccessKeyId("NEW")
    first = event("rotation.opened", "OLD", 0, rotation="r")
    tried = [event("key.created", "LOST", 1, rotation="r"), event("key.publish_intended", "LOST", 2, rotation="r")]
    again = event("key.created", made, 3, rotation="r")
    (rotation,) = rotations([first, *tried, again], since=None)
    assert (rotation["new_key_id"], rotation["proven_at"]) == (made, None)


def test_a_rollback_shows_the_proof_of_the_key_that_it_returned_to() -> None:
    rig = due()
    rig.settle("ci", until=lambda worked: worked.outcome is not None and worked.outcome.state == State.QUARANTINE)
    rig.serve("ci", asked(rollback=True))
    rig.settle("ci", span=60 * DAY)
    first, back = evidence(rig.journal, rig.world.clock, since=None)["rotations"]
    assert (back["old_key_id"], back["new_key_id"]) == (first["new_key_id"], first["old_key_id"])
    in_order(back, "opened_at", "proven_at", "published_at", *ENDS, "closed_at")
    assert first["old_key_deactivated_at"] is None, "it was brought back"


OLD_KEY_ENDS: dict[str, tuple[list[tuple[str, dict[str, str | int | None]]], tuple[int | None, int | None]]] = {
    "by rekeyd": ([("key.deactivated", {}), ("key.deleted", {})], (1, 2)),
    "by another hand": ([("quarantine.started", {}), ("retirement.ended", {})], (1, 2)),
    "by calls whose answers were lost": (
        [
            ("key.change_settled", {"verb": "deactivate", "happened": 1}),
            ("key.change_settled", {"verb": "delete", "happened": 1}),
        ],
        (1, 2),
    ),
    "not by calls that never arrived": (
        [
            ("key.change_settled", {"verb": "deactivate", "happened": 0}),
            ("key.change_settled", {"verb": "delete", "happened": 0}),
        ],
        (None, None),
    ),
    "not while somebody reactivated it": ([("key.deactivated", {}), ("quarantine.voided", {})], (None, None)),
}


@pytest.mark.parametrize("how", OLD_KEY_ENDS)
def test_the_end_of_an_old_key_is_told_whoever_ended_it(how: str) -> None:
    steps, (off, gone) = OLD_KEY_ENDS[how]
    ends = [replace(event(name, "OLD", day), detail=detail) for day, (name, detail) in enumerate(steps, start=1)]
    (rotation,) = rotations([event("rotation.opened", "OLD", 0, rotation="r"), *ends], since=None)
    expected = [None if day is None else time_text(NOW + day * DAY) for day in (off, gone)]
    assert [rotation[name] for name in ENDS] == expected


def test_what_is_older_than_asked_for_is_left_out(rig: Rig) -> None:
    document = evidence(rig.journal, rig.world.clock, since=rig.world.clock.now() + timedelta(seconds=1))
    assert document["rotations"] == []


@pytest.mark.parametrize("last_step", ["key.deactivated", "rotation.closed"])
def test_a_rotation_that_was_opened_before_the_day_asked_for_is_shown_whole(rig: Rig, last_step: str) -> None:
    at = next(event.at for event in rig.journal.history() if event.event == last_step)
    whole = evidence(rig.journal, rig.world.clock, since=None)["rotations"]
    assert evidence(rig.journal, rig.world.clock, since=at)["rotations"] == whole


def test_the_end_of_its_old_key_counts_as_a_step_of_a_rotation() -> None:
    life = [event("rotation.opened", "OLD", 0, rotation="r"), event("key.deactivated", "OLD", 9)]
    assert len(rotations(life, since=NOW + 9 * DAY)) == 1
    assert rotations(life, since=NOW + 9 * DAY + timedelta(seconds=1)) == []


def test_what_an_operator_did_to_sessions_and_how_the_journal_began_are_evidence(rig: Rig) -> None:
    now = rig.world.clock.now()
    for event in ("sessions.revoking", "sessions.revoked", "sessions.lifted", "key.moved"):
        rig.journal.append(event, at=now, actor="user:ann", account_id=ACCOUNT, user_name="ci")
    document = evidence(rig.journal, rig.world.clock, since=None)
    assert [each["event"] for each in document["people"] if each["actor"] == "user:ann"] == [
        *("sessions.revoking", "sessions.revoked", "sessions.lifted", "key.moved")
    ]
    assert "journal.created" in [each["event"] for each in document["journal"]]
    assert "journal" in {row["kind"] for row in rows(document)}


def refusals(rig: Rig) -> list[tuple[str, str | None, str]]:
    told = evidence(rig.journal, rig.world.clock, since=None)["refusals"]
    return [(each["event"], each["reason"], each["actor"]) for each in told]


def test_a_refused_user_and_a_refused_request_are_evidence_once() -> None:
    rig = due()
    stray = rig.world.operators.create_key(ACCOUNT, "ci").access_key_id
    rig.world.clock.advance(timedelta(minutes=1))
    for _ in range(3):
        rig.look("ci")
        rig.world.clock.advance(DAY)
    rig.serve("ci", asked())
    assert refusals(rig) == [
        ("principal.refused", "stray_key", "daemon"),
        ("request.served", "stray_key", "daemon"),
    ]
    told = evidence(rig.journal, rig.world.clock, since=None)["refusals"][0]
    assert (told["user_name"], told["access_key_id"]) == ("ci", stray)
    assert "a key exists that neither Vault nor the journal explains" in told["detail"]


def test_a_retirement_on_hold_and_a_failed_step_are_evidence_and_the_hold_again_after_the_failure() -> None:
    rig = due()
    (old,) = rig.world.keys(ACCOUNT, "ci")
    rig.look("ci")
    rig.world.clock.advance(8 * DAY)
    assert rig.world.use_key(old.id)
    rig.world.clock.advance(timedelta(hours=1))
    assert rig.look("ci").outcome is not None
    with rig.world.fault("iam.list_access_keys", error=TemporaryError("no answer"), times=None):
        rig.look("ci")
    rig.world.clock.advance(timedelta(hours=1))
    rig.look("ci")
    assert refusals(rig) == [
        ("principal.held", "still_used", "daemon"),
        ("principal.failed", None, "daemon"),
        ("principal.held", "still_used", "daemon"),
    ]


def test_an_alarm_is_evidence_from_its_beginning_to_its_end_with_who_knew_of_it() -> None:
    rig = due()
    keeper = AlarmKeeper(journal=rig.journal, clock=rig.world.clock, repeat_every=DAY)
    root_key = found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT)
    until = rig.world.clock.now() + DAY
    keeper.update(Scope.posture(ACCOUNT), [root_key])
    keeper.acknowledge(root_key.fingerprint, until=until, by="user:ann", because="ticket 4711")
    keeper.update(Scope.posture(ACCOUNT), [])
    document = evidence(rig.journal, rig.world.clock, since=None)
    assert [(each["event"], each["actor"], each["account_id"]) for each in document["alarms"]] == [
        ("alarm.raised", "daemon", ACCOUNT),
        ("alarm.acknowledged", "user:ann", ACCOUNT),
        ("alarm.resolved", "daemon", ACCOUNT),
    ]
    assert {"reason=root_access_key", "severity=critical"} <= set(document["alarms"][0]["detail"].split(", "))
    assert {"because=ticket 4711", f"until={until:%Y-%m-%dT%H:%M:%S.%fZ}"} <= set(
        document["alarms"][1]["detail"].split(", ")
    )
    assert [row["event"] for row in rows(document) if row["kind"] == "alarm"] == [
        each["event"] for each in document["alarms"]
    ]


def test_the_rows_name_every_user_as_it_is_now(rig: Rig) -> None:
    now, held = rig.world.clock.now(), rig.world.held_id(ACCOUNT, "ci")
    shown = [row for row in rows(evidence(rig.journal, rig.world.clock, since=now)) if row["kind"] == "principal"]
    assert [(row["at"], row["user_name"], row["state"], row["access_key_id"], row["policy"]) for row in shown] == [
        (time_text(now), "ci", "fresh", held, "default")
    ]


def test_every_row_fits_the_columns(rig: Rig) -> None:
    for row in rows(evidence(rig.journal, rig.world.clock, since=None)):
        assert set(row) <= set(COLUMNS)


# --- ages over time --------------------------------------------------------------------------------------------------


def told(rig: Rig, *, since: datetime | None = None) -> list[tuple[str, float | None, float | None, str]]:
    """(event, age before, age after, how well it is known), in days."""
    document = evidence(rig.journal, rig.world.clock, since=since)
    return [(row["event"], row["age_days_before"], row["age_days"], row["age_is"]) for row in document["ages"]]


def test_the_age_of_the_oldest_active_key_is_told_at_each_change_and_now(rig: Rig) -> None:
    assert told(rig) == [
        ("rotation.opened", 100.0, 100.0, "exact"),
        ("key.created", 100.0, 100.0, "exact"),
        ("key.deactivated", 107.0, 7.0, "exact"),
        ("key.deleted", 14.0, 14.0, "exact"),
        ("now", None, 14.0, "exact"),
    ]


def test_ages_since_a_day_begin_with_that_day_and_reach_back_for_what_was_before(rig: Rig) -> None:
    since = rig.world.clock.now() - 10 * DAY
    assert told(rig, since=since)[:2] == [("since", None, 104.0, "exact"), ("key.deactivated", 107.0, 7.0, "exact")]


def test_the_row_of_an_age_has_the_hash_of_its_event(rig: Rig) -> None:
    hashes = {event.hash: event.event for event in rig.journal.history()}
    rows_ = evidence(rig.journal, rig.world.clock, since=None)["ages"]
    assert [hashes[row["hash"]] for row in rows_[:-1]] == [row["event"] for row in rows_[:-1]]


def event(
    name: str, key: str, day: int, *, user: str = "ci", rotation: str | None = None, **detail: str | int | None
) -> JournalEvent:
    return JournalEvent(
        seq=day,
        at=NOW + day * DAY,
        actor="daemon",
        account_id=ACCOUNT,
        user_name=user,
        rotation_id=None if rotation is None else RotationId(rotation),
        event=name,
        access_key_id=AccessKeyId(key),
        reason=None,
        detail=detail,
        hash=f"{name}{day}",
    )


NOW = datetime.fromisoformat("2026-01-01T00:00:00Z")
LIVES: dict[str, tuple[list[JournalEvent], list[tuple[float | None, str | None]]]] = {
    "a key of unknown age is at least as old as the trail's knowledge of it": (
        [event("rotation.opened", "OLD", 0), event("key.created", "NEW", 1)],
        [(0.0, "at least"), (1.0, "at least"), (20.0, "at least")],
    ),
    "a deactivation whose answer was lost, and that happened": (
        [
            event("key.created", "OLD", 0),
            event("key.created", "NEW", 5),
            event("key.change_settled", "OLD", 9, verb="deactivate", happened=1),
        ],
        [(0.0, "exact"), (5.0, "exact"), (4.0, "exact"), (15.0, "exact")],
    ),
    "one that did not happen": (
        [
            event("key.created", "OLD", 0),
            event("key.created", "NEW", 5),
            event("key.change_settled", "OLD", 9, verb="deactivate", happened=0),
        ],
        [(0.0, "exact"), (5.0, "exact"), (9.0, "exact"), (20.0, "exact")],
    ),
    "a key that somebody reactivated counts again": (
        [
            event("key.created", "OLD", 0),
            event("key.created", "NEW", 5),
            event("key.deactivated", "OLD", 9),
            event("quarantine.voided", "OLD", 11),
        ],
        [(0.0, "exact"), (5.0, "exact"), (4.0, "exact"), (11.0, "exact"), (20.0, "exact")],
    ),
    "a key that another hand deleted counts no more": (
        [event("key.created", "OLD", 0), event("key.created", "NEW", 5), event("retirement.ended", "OLD", 9)],
        [(0.0, "exact"), (5.0, "exact"), (4.0, "exact"), (15.0, "exact")],
    ),
    "no key left": (
        [event("key.created", "OLD", 0), event("key.deleted", "OLD", 3)],
        [(0.0, "exact"), (None, None), (None, None)],
    ),
}


@pytest.mark.parametrize("life", LIVES)
def test_ages_follow_what_became_of_each_key(life: str) -> None:
    events, expected = LIVES[life]
    told_ = ages(events, since=None, now=NOW + 20 * DAY)
    assert [(row["age_days"], row["age_is"]) for row in told_] == expected


def test_each_user_has_ages_of_its_own() -> None:
    told_ = ages([event("key.created", "A", 0, user="a"), event("key.created", "B", 4, user="b")], since=None, now=NOW)
    assert [(row["user_name"], row["access_key_id"]) for row in told_] == [("a", "A")] * 2 + [("b", "B")] * 2


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_secret(tmp_path / "token", "not-a-token-of-anything")
    (tmp_path / "config.toml").write_text(
        f"""
[vault]
address = "http://127.0.0.1:1"
[vault.auth]
token_file = "{tmp_path}/token"
[journal]
url = "sqlite:///{tmp_path}/journal.db"
"""
    )
    clock = SystemClock()
    with open_journal(f"sqlite:///{tmp_path}/journal.db", instance="default", clock=clock) as journal:
        for name in ("=cmd()", "<script>"):
            journal.append(
                "brake.released", at=clock.now(), actor="user:alice", user_name=name, detail={"because": "all is well"}
            )
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = ended_with(["report", *options, "--config", str(folder / "config.toml")])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_as_csv_no_cell_is_a_formula(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(folder, capsys, "--format", "csv", "--since", "1d")
    assert code == 0
    assert "is whole" in err
    chain, *others = csv.DictReader(io.StringIO(out))
    assert (chain["kind"], chain["event"]) == ("chain", "whole")
    assert [(row["kind"], row["user_name"]) for row in others] == [
        ("people", "'=cmd()"),
        ("people", "<script>"),
        ("journal", ""),
    ]


def test_as_html_nothing_is_a_tag(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(folder, capsys, "--format", "html")
    assert "&lt;script&gt;" in out
    assert "<script>" not in out


def test_as_json_it_names_the_head_of_the_chain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(folder, capsys, "--json", "--since", "2026-01-01")
    document = json.loads(out)
    assert code == 0
    assert [each["event"] for each in document["people"]] == ["brake.released", "brake.released"]
    assert len(document["chain"]["head_hash"]) == 64


def test_a_changed_trail_is_said_and_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = sa.create_engine(f"sqlite:///{folder}/journal.db")
    with engine.begin() as conn:
        conn.execute(sa.text("DROP TRIGGER event_never_updated"))
        conn.execute(sa.text("UPDATE event SET actor = 'user:mallory' WHERE seq = 2"))
    engine.dispose()
    code, out, err = run(folder, capsys)
    assert code == 1
    assert json.loads(out)["chain"]["broken_at"] == 2
    assert "event 2 does not follow" in err
    # And in the evidence itself, which may be handed on without what was said beside it.
    code, out, _ = run(folder, capsys, "--format", "csv")
    chain = next(csv.DictReader(io.StringIO(out)))
    assert (code, chain["event"]) == (1, "BROKEN")
    assert chain["detail"].startswith("event 2 does not follow")
    code, out, _ = run(folder, capsys, "--format", "html")
    assert code == 1
    assert '<p class="broken">' in out
    assert "BROKEN: event 2 does not follow" in out


def test_a_date_in_the_future_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(folder, capsys, "--since", "2999-01-01")
    assert code == 2
    assert "in the future" in err
