"""The page for people: worst first, red as long as it is open, and nobody else's words taken for its own."""

import base64
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from rekeyd.core.model import AccessKeyId, AccountId, UserId
from rekeyd.core.reasons import Reason, Severity
from rekeyd.core.state import State
from rekeyd.fleet.documents import account_entry, finding_entry, principal_entry
from rekeyd.ports import AccountStatus, Alarm, PrincipalStatus
from rekeyd.web import status_page

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ACCOUNT = AccountId("111122223333")
HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


def alarm(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "fingerprint": "0a1f",
        "notified_at": NOW,
        "severity": Severity.CRITICAL,
        "reason": "root_access_key",
        "account_id": ACCOUNT,
        "principal": None,
        "message": "the root user has an access key",
        "remedy": "delete it",
        "cis": (),
        "first_seen_at": NOW - timedelta(days=1),
        "last_seen_at": NOW,
    }
    return finding_entry(Alarm(**fields | changes))


def user(name: str, state: State = State.FRESH, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "account_id": ACCOUNT,
        "user_name": name,
        "user_id": UserId("AIDA" + name),
        "policy": "default",
        "state": state,
        "reason": Reason.DUE,
        "message": "",
        "held_access_key_id": AccessKeyId("AKIAHELD"),
        "old_access_key_id": None,
        "held_created_at": NOW - timedelta(days=12),
        "oldest_active_at": None,
        "next_at": None,
        "looked_at": NOW,
    }
    return principal_entry(PrincipalStatus(**fields | changes), NOW)


def account(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "account_id": ACCOUNT,
        "alias": "shop",
        "state": "ok",
        "message": "",
        "last_pass_at": NOW,
        "last_drift_at": NOW,
        "principals": 2,
        "due": 0,
    }
    return account_entry(AccountStatus(**fields | changes))


def page(*, problems: tuple[str, ...] = (), **parts: list[dict[str, Any]]) -> str:
    document: Mapping[str, Any] = {
        "schema_version": 1,
        "as_of": "2026-01-31T12:00:00Z",
        "findings": [],
        "accounts": [],
        "principals": [],
    }
    return status_page.render({**document, **parts}, problems)


class Tags(HTMLParser):
    """Every element, and whether each was closed in order."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        # Nothing is loaded, and nothing leads away.
        assert not {"src", "href", "action", "onclick"} & {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


def rows(html: str) -> list[str]:
    return re.findall(r"<tr.*?</tr>", html, re.DOTALL)


def test_a_page_without_anything_says_so() -> None:
    html = page()
    parsed(html)
    assert "Open alarms: 0" in html
    assert "critical" not in html.partition("</style>")[2]


def test_alarms_stand_worst_first_and_with_what_to_do() -> None:
    html = page(
        findings=[
            alarm(severity=Severity.LOW, message="a low one"),
            alarm(),
            alarm(severity=Severity.HIGH, message="a high one"),
        ],
        accounts=[account()],
    )
    parsed(html)
    places = [html.index(text) for text in ("the root user has an access key", "a high one", "a low one")]
    assert places == sorted(places)
    (row,) = [each for each in rows(html) if "root_access_key" in each and "critical" in each]
    for text in ("111122223333", "shop", "2026-01-30T12:00:00Z", "delete it"):
        assert text in row
    assert "<title>(1 critical) rekeyd</title>" in html


def test_an_acknowledged_root_alarm_stays_red() -> None:
    known = {
        "acknowledged_until": NOW + timedelta(days=7),
        "acknowledged_by": "user:ann",
        "acknowledged_because": "ticket 4711",
    }
    html = page(findings=[alarm(**known)])
    (row,) = [each for each in rows(html) if "root_access_key" in each]
    assert row.startswith('<tr class="critical">')
    assert "by user:ann until 2026-02-07 12:00 UTC: ticket 4711" in re.sub(r"</?time[^>]*>", "", row)
    assert 'class="banner critical"' in html
    assert "1 critical alarm is open" in html


@pytest.mark.parametrize("where", ["finding", "user", "account", "problem"])
def test_what_others_wrote_is_text(where: str) -> None:
    html = {
        "finding": page(findings=[alarm(principal=HOSTILE, message=HOSTILE, remedy=HOSTILE)]),
        "user": page(principals=[user(HOSTILE, message=HOSTILE)]),
        "account": page(accounts=[account(alias=HOSTILE, message=HOSTILE, state="failing")]),
        "problem": page(problems=(HOSTILE,)),
    }[where]
    assert "script" not in parsed(html).seen
    assert "&lt;script&gt;" in html
    assert "{{ 7 * 7 }}" in html


def test_its_own_style_is_all_that_a_browser_may_use() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", page(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in status_page.policy().split(";"))
    assert rules["style-src"] == f"'sha256-{digest}'"
    assert {name for name, value in rules.items() if value == "'none'"} == {
        "default-src",
        "base-uri",
        "form-action",
        "frame-ancestors",
    }


def test_users_who_need_somebody_come_first_and_the_rest_of_a_large_fleet_is_counted() -> None:
    calm = [user(f"calm-{number:04}") for number in range(status_page.SHOWN_USERS + 10)]
    html = page(principals=[*calm, user("busy", State.ROTATING), user("stuck", State.REFUSED, message="a person must")])
    parsed(html)
    assert html.index("stuck") < html.index("busy") < html.index("calm-0000")
    assert f"Users: {status_page.SHOWN_USERS + 12}" in html
    assert "12 more are not shown" in html
    assert "calm-0509" not in html


def test_a_daemon_that_is_not_ready_says_why() -> None:
    assert "Not ready: Vault is sealed" in page(problems=("Vault is sealed",))
