"""A critical alarm that somebody acknowledged: as red as it was wherever it is shown, with who knows until when."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.metrics import Metrics
from rekeyd.cli.main import ended_with
from rekeyd.core.findings import FindingReason, found
from rekeyd.core.model import AccountId
from rekeyd.fleet.alarms import AlarmKeeper, Scope
from rekeyd.fleet.documents import status_document, time_text
from rekeyd.ports import AccountStatus
from tests.secret_registry import write_secret
from tests.unit.test_daemon_metrics import CONDITION
from tests.unit.test_web import Shown, ask, served

ACCOUNT = AccountId("111122223333")
DAY = timedelta(days=1)
CLOCK = SystemClock()
UNTIL = CLOCK.now() + 3 * DAY
KNOWN = {
    "acknowledged_until": time_text(UNTIL),
    "acknowledged_by": "user:ann",
    "acknowledged_because": "ticket 4711",
}
SAID = f"by user:ann until {KNOWN['acknowledged_until']}: ticket 4711"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqlJournal]:
    """With a root key that is known, and a user's finding that is not."""
    write_secret(tmp_path / "token", "not-a-token-of-anything")
    url = f"sqlite:///{tmp_path}/journal.db"
    (tmp_path / "config.toml").write_text(
        f"""
[vault]
address = "http://127.0.0.1:1"
[vault.auth]
token_file = "{tmp_path}/token"
[journal]
url = "{url}"
"""
    )
    with open_journal(url, instance="default", clock=CLOCK) as journal:
        keeper = AlarmKeeper(journal=journal, clock=CLOCK, repeat_every=DAY)
        root_key = found(FindingReason.ROOT_ACCESS_KEY, account_id=ACCOUNT)
        unused = found(FindingReason.KEY_UNUSED, account_id=ACCOUNT, principal="ci")
        keeper.update(Scope.posture(ACCOUNT), [root_key, unused])
        keeper.acknowledge(root_key.fingerprint, until=UNTIL, by="user:ann", because="ticket 4711")
        yield journal


def run(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = ended_with([*arguments, "--config", str(folder / "config.toml")])
    return code, capsys.readouterr().out


def red_and_known(findings: list[dict[str, Any]]) -> None:
    (root,) = [finding for finding in findings if finding["reason"] == "root_access_key"]
    assert root["severity"] == "critical"
    assert {name: root[name] for name in KNOWN} == KNOWN


@pytest.mark.parametrize(("command", "part"), [("status", "findings"), ("alarms", "alarms")])
def test_a_command_exits_3_and_says_who_knows(
    journal: SqlJournal, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, part: str
) -> None:
    code, out = run(tmp_path, capsys, command, "--json")
    assert code == 3
    red_and_known(json.loads(out)[part])
    code, out = run(tmp_path, capsys, command)
    assert code == 3
    (row,) = [line for line in out.splitlines() if line.startswith("critical")]
    assert " ".join(row.split()).endswith(SAID)


def test_the_api_says_the_same(journal: SqlJournal) -> None:
    class Daemon(Shown):
        def status(self) -> dict[str, Any]:
            return status_document(journal, CLOCK)

    with served(Daemon()) as server:
        findings = ask(server, "/api/v1/status").document["findings"]
    red_and_known(findings)
    (other,) = [finding for finding in findings if finding["reason"] == "key_unused"]
    assert not set(KNOWN) & set(other)


def test_the_metrics_count_it_as_before(journal: SqlJournal) -> None:
    journal.save_account(
        AccountStatus(
            account_id=ACCOUNT,
            alias=None,
            state="ok",
            message="",
            last_pass_at=None,
            last_drift_at=None,
            principals=0,
            due=0,
        )
    )
    lines = Metrics(journal, CLOCK, lambda: CONDITION).exposition().decode().splitlines()
    assert 'rekeyd_alarms{severity="critical"} 1.0' in lines
    assert f'rekeyd_root_access_keys{{account_id="{ACCOUNT}"}} 1.0' in lines


def test_an_acknowledgement_that_has_ended_is_not_shown_as_one(
    journal: SqlJournal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (alarm,) = [alarm for alarm in journal.alarms() if alarm.acknowledged_until is not None]
    over = CLOCK.now() - DAY
    journal.acknowledge(alarm.fingerprint, until=over, by="user:ann", because="old", channels=(), at=over)
    code, out = run(tmp_path, capsys, "status")
    assert code == 3
    assert "acknowledged" not in out
    assert "user:ann" not in out
