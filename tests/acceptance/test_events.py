"""The running daemon hears of changes by the event queue, and nobody can misuse it for more than a look."""

import json
import math
import signal
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
import requests

from rekeyd.daemon.events import Meaning
from rekeyd.demo.emulator import HUB
from tests.acceptance.stand import Running, Stand, eventually
from tests.acceptance.test_alarm_channels import receiving
from tests.integration.test_channels import SECRET
from tests.secret_registry import write_secret

ROOT = {"type": "Root", "principalId": HUB, "arn": f"arn:aws:iam::{HUB}:root", "accountId": HUB}
SOMEBODY = {"type": "AssumedRole", "arn": f"arn:aws:sts::{HUB}:assumed-role/admin/me", "accountId": HUB}
JUNK = 1_000
# What the configuration says is an hour, so that whatever comes sooner came by the queue.
RARELY = "1h"
MALFORMED = 'rekeyd_event_messages_total{meaning="malformed"}'
# The most that one call may carry.
_AT_ONCE = 10


def event(name: str, identity: Mapping[str, Any], *, account: str = HUB, **record: Any) -> str:
    detail = {
        "eventVersion": "1.10",
        "userIdentity": identity,
        "eventSource": "iam.amazonaws.com",
        "eventName": name,
        "requestParameters": None,
        "responseElements": None,
        **record,
    }
    return json.dumps(
        {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "AWS API Call via CloudTrail",
            "source": "aws.iam",
            "account": account,
            "region": "us-east-1",
            "detail": detail,
        }
    )


class Queue:
    """The queue that the daemon reads, by the hands of others."""

    def __init__(self, stand: Stand) -> None:
        self._sqs = stand.aws.client("sqs")
        self.url = str(self._sqs.create_queue(QueueName="rekeyd-events")["QueueUrl"])

    def put(self, *bodies: str) -> None:
        for begin in range(0, len(bodies), _AT_ONCE):
            entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[begin : begin + _AT_ONCE])]
            assert not self._sqs.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    @property
    def is_empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        said = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return [int(said[name]) for name in names] == [0, 0]


def configure(stand: Stand, queue_url: str, port: int | None = None) -> None:
    """A daemon that scans and checks once an hour, reads the queue, and tells a webhook at the port, if any."""
    url, secret = (stand.folder / name for name in ("webhook-url", "webhook-secret"))
    write_secret(url, f"http://127.0.0.1:{port}/alarms")
    write_secret(secret, SECRET)
    config = stand.write_config(
        {"max_age": "90d", "overlap": "1d", "quarantine": "1d"},
        scan_every=RARELY,
        extra=f'[events]\nqueue_url = "{queue_url}"',
    )
    text = config.read_text().replace('check_every = "1s"', f'check_every = "{RARELY}"')
    webhook = "" if port is None else f'webhook_url_file = "{url}"\nwebhook_secret_file = "{secret}"\n'
    alarms = f'[alarms]\n{webhook}repeat_every = "1h"'
    config.write_text(text.replace('[alarms]\nrepeat_every = "5s"', alarms))


def told(server: Any, reason: str = "root_access_key") -> list[str]:
    return [each["notice"] for message in server.messages for each in message["alarms"] if each["reason"] == reason]


def sent_in(daemon: Running, number: int = 1) -> dict[str, Any]:
    """The line about the so-manieth critical message; it comes after the receiver has it."""

    def found() -> dict[str, Any] | None:
        sent = [line for line in _lines(daemon, "notification.sent") if line["severity"] == "critical"]
        return sent[number - 1] if len(sent) >= number else None

    return eventually(found, "the message's line", alive=daemon)


def _at(line: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(line["timestamp"])


def _lines(daemon: Running, name: str) -> list[dict[str, Any]]:
    return [line for line in daemon.events if line["event"] == name]


def _metric(stand: Stand, name: str) -> float:
    text = requests.get(f"http://127.0.0.1:{stand.http_port}/metrics", timeout=10).text
    # A series that has not counted anything is not there.
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)


def _iam_calls(stand: Stand) -> Counter[str]:
    return Counter(seen.op for seen in tuple(stand.aws.requests) if seen.service in ("iam", "cloudtrail", "sts"))


def _settled(stand: Stand, daemon: Running) -> None:
    """The scan and the root check of the start are over; the next ones come in an hour."""
    daemon.wait_for_event("pass.finished")
    eventually(
        lambda: _metric(stand, 'rekeyd_pass_duration_seconds_count{kind="root",outcome="well"}') >= 1, "the root check"
    )
    eventually(lambda: _metric(stand, "rekeyd_events_queue_readable") == 1, "the first poll")


def test_a_root_key_is_told_within_seconds_while_the_next_scan_is_an_hour_away(stand: Stand) -> None:
    queue = Queue(stand)
    with receiving() as server:
        configure(stand, queue.url, server.server_port)
        # A poll of an empty queue is answered only after twenty seconds.
        queue.put("begin")
        with stand.daemon() as daemon:
            _settled(stand, daemon)
            made_at = stand.aws.clock.now()
            stand.aws.add_root_key(HUB)
            queue.put(event("CreateAccessKey", ROOT))
            eventually(lambda: told(server), "the message")
            (asked,) = _lines(daemon, "look.asked")
            (raised,) = _lines(daemon, "root_key.present")
            sent = sent_in(daemon)
            assert (asked["account_id"], asked["root"], asked["principals"]) == (HUB, True, [])
            assert made_at <= _at(asked) <= _at(raised) <= _at(sent)
            assert _at(sent) - made_at < timedelta(seconds=10)
            eventually(lambda: queue.is_empty, "an empty queue")
            assert told(server) == ["raised"]


def test_a_managed_user_is_looked_at_when_another_hand_changes_its_keys_and_not_for_our_own(stand: Stand) -> None:
    queue = Queue(stand)
    configure(stand, queue.url)
    stand.user("ci", key_age=timedelta(days=10))
    due = stand.user("due", key_age=timedelta(days=120))
    stand.user("unmanaged-by-nobody", key_age=timedelta(days=10))
    queue.put("begin")
    with stand.daemon() as daemon:
        _settled(stand, daemon)
        ours = daemon.wait_for_event("key.published")["access_key_id"]
        assert ours != due.key.access_key_id
        queue.put(
            event(
                "CreateAccessKey",
                SOMEBODY,
                requestParameters={"userName": "due"},
                responseElements={"accessKey": {"accessKeyId": ours, "userName": "due"}},
                userAgent="Boto3/1.44 rekeyd-op/0011223344556677",
            )
        )
        eventually(lambda: _metric(stand, 'rekeyd_event_messages_total{meaning="known"}') == 1, "our own call")
        theirs = stand.aws.add_key(HUB, "ci").access_key_id
        queue.put(
            event(
                "CreateAccessKey",
                SOMEBODY,
                requestParameters={"userName": "CI"},
                responseElements={"accessKey": {"accessKeyId": theirs, "userName": "CI"}},
            )
        )
        stray = daemon.wait_for_event("principal.refused")
        assert (stray["principal"], stray["reason"], stray["access_key_id"]) == ("ci", "stray_key", theirs)
        assert [line["principals"] for line in _lines(daemon, "look.asked")] == [["ci"]]
    assert stand.statuses("ci") == ["Active", "Active"]


def test_a_key_of_which_aws_health_tells_is_replaced_within_seconds(stand: Stand) -> None:
    queue = Queue(stand)
    configure(stand, queue.url)
    text = stand.config.read_text()
    text = text.replace("[scan]\n", "[scan]\nhealth = true\n").replace("max_age =", 'on_exposed = "rotate"\nmax_age =')
    stand.config.write_text(text)
    stand.aws.subscribe_health(HUB)
    known, other = (stand.user(name, key_age=timedelta(days=10)) for name in ("ci", "other"))
    queue.put("begin")
    with stand.daemon() as daemon:
        _settled(stand, daemon)
        old = known.key.access_key_id
        stand.aws.report_exposed(HUB, old)
        found_at = stand.aws.clock.now()
        told = {"eventTypeCode": "AWS_RISK_CREDENTIALS_EXPOSED", "affectedEntities": [{"entityValue": old}]}
        queue.put(json.dumps({"detail-type": "AWS Health Event", "account": HUB, "detail": told}))
        eventually(lambda: stand.aws.key(old).status == "Inactive" or None, "the old key's end", alive=daemon)
        took = (stand.aws.clock.now() - found_at).total_seconds()
        print(f"AWS Health's event -> key replaced, the old one Inactive: {took:.1f} s, without propagation delay")
        assert took < 20
        (alarm,) = [line for line in _lines(daemon, "alarm.raised") if line["reason"] == "user_compromised"]
        assert (alarm["severity"], alarm["principal"]) == ("critical", "ci")
    assert stand.serves_a_live_pair("ci")
    assert stand.statuses("other") == ["Active"]
    assert stand.held_id("other") == other.key.access_key_id


@pytest.mark.timeout(400)
def test_a_thousand_junk_messages_change_nothing_and_are_drained(stand: Stand) -> None:
    queue = Queue(stand)
    configure(stand, queue.url)
    stand.user("ci", key_age=timedelta(days=10))
    forged = event("CreateAccessKey", ROOT)
    kinds = (
        "no event",
        "[" * 50_000,
        json.dumps({"account": HUB, "detail": "x" * 90_000}),
        event("CreateAccessKey", {**ROOT, "accountId": "999988887777"}, account="999988887777"),
        event("DeleteAccessKey", SOMEBODY, requestParameters={"userName": "nobody", "accessKeyId": "AKIAIOSFODNN7"}),
        event("CreateUser", SOMEBODY, requestParameters={"userName": "ci"}),
        forged,
    )
    # Few of the big ones: the emulated queue copies each of them many times.
    bad = [kinds[1]] * 10 + [kinds[2]] * 10 + [kinds[0]] * (JUNK // 2 - 20)
    junk = bad + [kinds[3 + number % 4] for number in range(JUNK // 2)]
    queue.put("begin")
    with stand.daemon() as daemon:
        _settled(stand, daemon)
        before, held = _iam_calls(stand), stand.held_id("ci")
        began_at = stand.aws.clock.now()
        queue.put(*junk)
        meanings = [f'rekeyd_event_messages_total{{meaning="{meaning}"}}' for meaning in Meaning]
        eventually(lambda: sum(_metric(stand, name) for name in meanings) == JUNK + 1, "the last message", limit=240)
        eventually(lambda: queue.is_empty, "an empty queue")
        assert _metric(stand, MALFORMED) == JUNK / 2 + 1
        # What was forged best is a real wish for a look, and no more than one is due at a time.
        took = (stand.aws.clock.now() - began_at).total_seconds()
        looks = len(_lines(daemon, "look.asked"))
        assert 1 <= looks <= 1 + took / 5 + 1
        more = _iam_calls(stand) - before
        assert set(more) == {"GetAccountSummary"}
        assert more.total() <= looks + 1
        assert _metric(stand, 'rekeyd_event_messages_total{meaning="unconcerned"}') == 375
        assert len(_lines(daemon, "messages.discarded")) <= 2 + took / 60
        ready = requests.get(f"http://127.0.0.1:{stand.http_port}/readyz", timeout=10)
        assert ready.status_code == 200, ready.text
        assert not [line for line in daemon.events if line["level"] in ("error", "critical")]
    assert stand.held_id("ci") == held
    assert stand.statuses("ci") == ["Active"]


def test_a_queue_that_cannot_be_read_is_an_alarm_and_stops_nothing(stand: Stand) -> None:
    queue = Queue(stand)
    with receiving() as server:
        configure(stand, queue.url + "-gone", server.server_port)
        stand.user("due", key_age=timedelta(days=120))
        with stand.daemon() as daemon:
            daemon.wait_for_event("key.published")
            eventually(lambda: told(server, "events_unreadable"), "the alarm")
            assert len(_lines(daemon, "queue.lost")) == 1
            configure(stand, queue.url, server.server_port)
            queue.put("begin")
            daemon.process.send_signal(signal.SIGHUP)
            eventually(lambda: len(told(server, "events_unreadable")) == 2, "its end")
            daemon.wait_for_event("queue.recovered")
            assert told(server, "events_unreadable") == ["raised", "resolved"]


def test_messages_that_cannot_be_deleted_are_an_alarm_until_they_can_be(stand: Stand) -> None:
    queue = Queue(stand)
    # They come again at once, as they do in AWS after the visibility timeout.
    stand.aws.client("sqs").set_queue_attributes(QueueUrl=queue.url, Attributes={"VisibilityTimeout": "1"})
    denial = stand.aws.deny(HUB, "DeleteMessageBatch")
    with receiving() as server:
        configure(stand, queue.url, server.server_port)
        queue.put("begin")
        with stand.daemon() as daemon:
            eventually(lambda: told(server, "events_unreadable") == ["raised"], "the alarm")
            assert _metric(stand, "rekeyd_events_queue_readable") == 0
            denial.lift()
            eventually(lambda: told(server, "events_unreadable") == ["raised", "resolved"], "its end")
            eventually(lambda: queue.is_empty, "an empty queue")
            assert len(_lines(daemon, "queue.lost")) == 1


def test_the_daemon_ends_at_once_in_the_middle_of_a_poll(stand: Stand) -> None:
    queue = Queue(stand)
    configure(stand, queue.url)
    with stand.daemon() as daemon:
        daemon.wait_for_event("pass.finished")
        eventually(lambda: [seen for seen in stand.aws.requests if seen.op == "ReceiveMessage"], "a poll")
        began = time.monotonic()
        ran = daemon.stop()
        # The poll of an empty queue takes twenty.
        assert time.monotonic() - began < 10
        assert ran.code == 0
        assert "events" in _lines(daemon, "daemon.asked_to_stop")[0]["in_flight"]


def test_a_queue_comes_and_goes_by_reload(stand: Stand) -> None:
    queue = Queue(stand)
    configure(stand, queue.url)
    with_queue = stand.config.read_text()
    without = with_queue.replace(f'[events]\nqueue_url = "{queue.url}"', "")
    assert without != with_queue
    stand.config.write_text(without)
    with stand.daemon() as daemon:
        daemon.wait_for_event("pass.finished")
        for number in (1, 2):
            read = _metric(stand, MALFORMED)
            stand.config.write_text(with_queue)
            queue.put("x")
            daemon.process.send_signal(signal.SIGHUP)
            eventually(lambda n=read: _metric(stand, MALFORMED) > n, "the message")  # type: ignore[misc]
            stand.config.write_text(without)
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for_event("config.reloaded", count=2 * number)
            # The poll that is under way is answered now, and not twenty seconds later.
            queue.put("x")
            eventually(lambda: math.isnan(_metric(stand, "rekeyd_events_queue_readable")), "the end of the polls")
        queue.put("x")
        polls = len([seen for seen in stand.aws.requests if seen.op == "ReceiveMessage"])
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("config.reloaded", count=5)
        assert len([seen for seen in stand.aws.requests if seen.op == "ReceiveMessage"]) == polls
        assert not queue.is_empty


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "denied"])
def test_doctor_looks_at_the_queue_and_takes_no_message(stand: Stand, allowed: bool) -> None:
    queue = Queue(stand)
    configure(stand, queue.url)
    queue.put("x")
    if not allowed:
        stand.aws.deny(HUB, "GetQueueAttributes")
    ran = stand.run("doctor", "--json")
    checks = {check["name"]: check for check in ran.document["checks"]}
    assert checks["event queue"]["verdict"] == ("ok" if allowed else "failed")
    assert ("1 messages wait" in checks["event queue"]["message"]) is allowed
    assert not [seen for seen in stand.aws.requests if seen.op == "ReceiveMessage"]
