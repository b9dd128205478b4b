"""Owners told by a real mail server and a real signed webhook; what stands in a tag breaks neither."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rekeyd.adapters.channel_owners import OwnerSettings, OwnerWays
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.journal import open_journal
from rekeyd.core.model import AccessKeyId, AccountId, Principal, UserId
from rekeyd.core.reasons import Reason
from rekeyd.core.state import State
from rekeyd.demo.ports import free_port
from rekeyd.fleet.outbox import LAST_RETRY, Postman
from rekeyd.fleet.owners import OwnerDesk
from rekeyd.ports import PrincipalStatus
from tests.integration.test_channels import (
    ACCOUNT,
    SECRET,
    Mailbox,
    example,
    receiver,
)
from tests.secret_registry import write_secret
from tests.unit.test_owners import ALICE, BOB, ODD
from tests.world.clock import VirtualClock

__all__ = ["example", "receiver"]

HOLD = (
    "the old key is still used, so it stays Active: AKIAOLD0000000000001, Active, 100 days old, "
    "last used 2026-01-01T00:00:00Z with s3 in eu-central-1"
)


pytestmark = pytest.mark.slow


@contextmanager
def mail_server(box: Mailbox, port: int) -> Iterator[None]:
    from aiosmtpd.controller import Controller

    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield
    finally:
        controller.stop()


class Desk:
    """A daemon's outbox with real ways to owners; users come with their tags, as a scan reads them."""

    def __init__(self, settings: OwnerSettings) -> None:
        self.clock = VirtualClock()
        self.store = open_journal("sqlite://", instance="test", clock=self.clock)
        self.ways = OwnerWays(settings)
        self.boot()

    def boot(self) -> None:
        self.journal = self.store.another_holder()
        self.postman = Postman(
            journal=self.journal,
            clock=self.clock,
            owners=self.ways,
            instance="test",
            names=lambda: {AccountId(ACCOUNT): "shop"},
        )
        self.desk = OwnerDesk(
            journal=self.journal,
            clock=self.clock,
            channels=self.ways,
            tag="owner",
            notify_before=timedelta(days=7),
        )

    def restart(self) -> None:
        self.journal.die()
        self.boot()

    def look(self, *tags: str) -> None:
        users = [self._user(number, tag) for number, tag in enumerate(tags)]
        self.desk.look(AccountId(ACCOUNT), users, [self._held(user) for user in users], {}, observing=False)
        self.clock.advance(LAST_RETRY)
        self.postman.deliver(wait=True)

    def _user(self, number: int, tag: str) -> Principal:
        return Principal(
            account_id=AccountId(ACCOUNT),
            user_name=f"ci-{number}",
            user_id=UserId(f"AIDA{number}"),
            path="/",
            arn="",
            tags={"owner": tag},
        )

    def _held(self, user: Principal) -> PrincipalStatus:
        return PrincipalStatus(
            account_id=user.account_id,
            user_name=user.user_name,
            user_id=user.user_id,
            policy="default",
            state=State.ON_HOLD,
            reason=Reason.STILL_USED,
            message=HOLD,
            held_access_key_id=AccessKeyId("AKIANEW0000000000001"),
            old_access_key_id=AccessKeyId("AKIAOLD0000000000001"),
            held_created_at=None,
            oldest_active_at=None,
            next_at=None,
            looked_at=self.clock.now(),
        )


def mail_way(tmp_path: Path, port: int) -> OwnerSettings:
    file = tmp_path / "owner-urls"
    file.write_text(f"mailto://127.0.0.1:{port}?from=rekeyd@example.org&to={{owner}}&mode=insecure\n")
    return OwnerSettings(urls_file=file)


def text_of(mail: Any) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    text: str = body.get_content()
    return text


def test_each_owner_gets_a_mail_of_its_own_once_over_a_restart(tmp_path: Path) -> None:
    box, port = Mailbox(), free_port()
    desk = Desk(mail_way(tmp_path, port))
    with mail_server(box, port):
        desk.look(ALICE, BOB, "alice+keys@example.org")
        desk.restart()
        desk.look(ALICE, BOB, "alice+keys@example.org")
    assert sorted(mail["To"] for mail in box.mails) == sorted([ALICE, BOB, "alice+keys@example.org"])
    first = next(mail for mail in box.mails if mail["To"] == ALICE)
    assert (first.get_content_type(), first.is_multipart()) == ("text/plain", False)
    assert "(account 111122223333 shop, user ci-0)" in first["Subject"]
    assert "last used 2026-01-01T00:00:00Z with s3 in eu-central-1" in text_of(first)
    assert "What to do: move the program" in text_of(first)


def test_a_mail_server_that_was_down_for_an_hour_gets_everything_afterwards(tmp_path: Path) -> None:
    box, port = Mailbox(), free_port()
    desk = Desk(mail_way(tmp_path, port))
    for _ in range(12):
        desk.look(ALICE, BOB)
    (finding,) = desk.postman.findings()
    assert "2 owners are not told, the first: alice@example.org" in finding.message
    desk.restart()
    with mail_server(box, port):
        desk.look(ALICE, BOB)
    assert sorted(mail["To"] for mail in box.mails) == [ALICE, BOB]
    assert desk.postman.findings() == ()


@pytest.mark.parametrize("tag", [*ODD, "team-payments"])
def test_a_tag_that_is_no_address_sends_no_mail_anywhere(tmp_path: Path, tag: str) -> None:
    box, port = Mailbox(), free_port()
    desk = Desk(mail_way(tmp_path, port))
    with mail_server(box, port):
        desk.look(tag, BOB)
    assert [mail["To"] for mail in box.mails] == [BOB]
    assert all(mail["Cc"] is None and mail["Bcc"] is None for mail in box.mails)


def test_the_webhook_names_the_owner_and_is_signed(tmp_path: Path, receiver: Any, example: ModuleType) -> None:
    url_file, secret_file = tmp_path / "url", tmp_path / "secret"
    write_secret(url_file, f"http://127.0.0.1:{receiver.server_port}/owners")
    write_secret(secret_file, SECRET)
    desk = Desk(OwnerSettings(webhook_url_file=url_file, webhook_secret_file=secret_file))
    # The receiver refuses what is not of these minutes.
    desk.clock.advance_to(SystemClock().now() - LAST_RETRY)
    desk.look(ALICE, "team-payments", ODD[0])
    assert sorted(message["owner"] for message in receiver.messages) == [ALICE, "team-payments"]
    for message in receiver.messages:
        (alarm,) = message["alarms"]
        assert (alarm["notice"], alarm["reason"], alarm["owner"]) == ("owner", "still_used", message["owner"])
    assert example.Receiver is type(receiver)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("mailto://127.0.0.1?from=rekeyd@example.org&to=ops@example.org", "has no {owner}"),
        ("nonsense://T0KEN/{owner}", 'begins with "nonsense:"'),
        ("# nothing", "has no URL"),
    ],
)
def test_a_line_that_cannot_tell_owners_is_a_problem_that_shows_no_secret(
    tmp_path: Path, line: str, problem: str
) -> None:
    file = tmp_path / "owner-urls"
    file.write_text(line + "\n")
    ways = OwnerWays(OwnerSettings(urls_file=file))
    assert ways.names == ()
    assert ways.problem is not None
    assert problem in ways.problem
    assert "T0KEN" not in ways.problem
