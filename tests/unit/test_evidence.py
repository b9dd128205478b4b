"""The evidence of a whole rotation, in every format, and what is said when the trail was changed."""

import csv
import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from rekeyd import logs
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import open_journal
from rekeyd.cli.main import ended_with
from rekeyd.fleet.evidence import COLUMNS, evidence, rows
from tests.rig import ACCOUNT, DAY, Rig, policy
from tests.secret_registry import write_secret


@pytest.fixture(scope="module")
def rig() -> Rig:
    # Made before the first test has a stream of its own; the one of an earlier module's test may be closed.
    logs.configure(style="json", level="critical", stream=io.StringIO(), strict=True)
    rig = Rig(policy())
    rig.world.user(ACCOUNT, "ci", age=100 * DAY)
    rig.settle("ci", span=60 * DAY)
    return rig


def test_a_rotation_shows_its_proofs_and_the_end_of_the_old_key(rig: Rig) -> None:
    document = evidence(rig.journal, rig.world.clock, since=None)
    assert document["chain"]["broken_at"] is None
    (rotation,) = document["rotations"]
    steps = ["opened_at", "created_at", "published_at", "old_key_deactivated_at", "old_key_deleted_at"]
    times = [rotation[name] for name in steps]
    assert None not in times
    assert times == sorted(times)
    assert rotation["proven_at"] is not None
    assert rotation["old_key_id"] != rotation["new_key_id"]
    assert rotation["new_key_id"] == rig.world.held_id(ACCOUNT, "ci")
    assert document["principals"][0]["user_name"] == "ci"


def test_what_is_older_than_asked_for_is_left_out(rig: Rig) -> None:
    document = evidence(rig.journal, rig.world.clock, since=rig.world.clock.now() + timedelta(seconds=1))
    assert document["rotations"] == []


def test_every_row_fits_the_columns(rig: Rig) -> None:
    for row in rows(evidence(rig.journal, rig.world.clock, since=None)):
        assert set(row) <= set(COLUMNS)


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
    names = [row["user_name"] for row in csv.DictReader(io.StringIO(out))]
    assert names == ["'=cmd()", "<script>"]


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


def test_a_date_in_the_future_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(folder, capsys, "--since", "2999-01-01")
    assert code == 2
    assert "in the future" in err
