"""Alarms through real channels: an SMTP server, a webhook receiver, SNS of the emulator, a dead-man's switch."""

import importlib.util
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default as email_policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rekeyd.adapters.aws_session import AwsSessions, AwsSettings
from rekeyd.adapters.channel_apprise import AppriseChannel, apprise_channels
from rekeyd.adapters.channel_webhook import Webhook
from rekeyd.adapters.channels import ChannelSettings, channels_of
from rekeyd.adapters.clock import SystemClock
from rekeyd.adapters.heartbeat import Heartbeat
from rekeyd.core.notice import Notice
from rekeyd.demo.emulator import EmulatedAws
from rekeyd.demo.ports import free_port
from rekeyd.errors import ConfigError, MessageRefusedError, RefusedError, TemporaryError
from rekeyd.fleet.messages import message_of
from rekeyd.ports import Alarm, Announcement, Batch, Message
from tests.contract.vault_tls import Authority
from tests.secret_registry import write_secret

pytestmark = pytest.mark.slow

ACCOUNT = "111122223333"
SECRET = "f3b0c1-signing-secret"
DOC = Path(__file__).parents[2] / "docs" / "webhook-receiver.py"


def message(text: str = "the account's root user has an access key: für immer", *, alarms: int = 1) -> Message:
    """`alarms`: more than one are a storm, whose first is critical."""
    now = SystemClock().now()
    told = tuple(Announcement(kind=Notice.RAISED, alarm=_alarm(text, number, now), at=now) for number in range(alarms))
    batch = Batch(id="a1b2c3d4", channel="x", announcements=told)
    return message_of(batch, instance="test", names={ACCOUNT: "shop"}, at=now)  # type: ignore[dict-item]


def _alarm(text: str, number: int, now: datetime) -> Alarm:
    return Alarm(
        fingerprint=f"{number:x}a1fce851d2a060c"[-16:],
        severity="high" if number else "critical",
        reason="root_access_key",
        account_id=ACCOUNT,  # type: ignore[arg-type]
        principal=None,
        message=text,
        remedy="delete it",
        cis=("CIS v7.0 2.4",),
        first_seen_at=now,
        last_seen_at=now,
        notified_at=now,
    )


# --- e-mail ----------------------------------------------------------------------------------------------------------


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        parsed = BytesParser(policy=email_policy).parsebytes(envelope.content)
        assert isinstance(parsed, EmailMessage)
        self.mails.append(parsed)
        return "250 taken"


@contextmanager
def smtp_server(box: Mailbox, **options: Any) -> Iterator[int]:
    """`options` go to aiosmtpd's Controller."""
    from aiosmtpd.controller import Controller

    controller = Controller(box, hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def urls_file(tmp_path: Path, *urls: str) -> Path:
    file = tmp_path / "alarm-urls"
    file.write_text("# where alarms go\n\n" + "\n".join(urls) + "\n")
    return file


def test_an_alarm_arrives_as_mail(tmp_path: Path) -> None:
    box = Mailbox()
    with smtp_server(box) as port:
        url = f"mailto://127.0.0.1:{port}?from=rekeyd@example.org&to=ops@example.org&mode=insecure"
        (channel,) = apprise_channels(urls_file(tmp_path, url))
        channel.send(message())
    (mail,) = box.mails
    assert mail["To"] == "ops@example.org"
    assert (
        mail["Subject"] == f"rekeyd test: CRITICAL: the account's root user has an access key (account {ACCOUNT} shop)"
    )
    text = mail.get_body(("plain",))
    assert text is not None
    assert "für immer" in text.get_content()
    assert "What to do: delete it" in text.get_content()


def test_a_mail_is_plain_text_whose_lines_are_kept_and_in_which_nothing_is_markup(tmp_path: Path) -> None:
    box = Mailbox()
    told = message("a tag of the user says <b>bold</b> & <img src=x>")
    with smtp_server(box) as port:
        url = f"mailto://127.0.0.1:{port}?from=rekeyd@example.org&to=ops@example.org&mode=insecure"
        (channel,) = apprise_channels(urls_file(tmp_path, url))
        channel.send(told)
    (mail,) = box.mails
    assert (mail.get_content_type(), mail.is_multipart()) == ("text/plain", False)
    assert mail.get_content().splitlines() == told.text.splitlines()
    assert "<b>bold</b> & <img src=x>" in mail.get_content()


def test_a_mail_that_is_wanted_as_html_shows_markup_as_it_was_written(tmp_path: Path) -> None:
    box = Mailbox()
    with smtp_server(box) as port:
        url = f"mailto://127.0.0.1:{port}?from=rekeyd@example.org&to=ops@example.org&mode=insecure&format=html"
        (channel,) = apprise_channels(urls_file(tmp_path, url))
        channel.send(message("a tag of the user says <b>bold</b>"))
    (mail,) = box.mails
    page = mail.get_body(("html",))
    assert page is not None
    assert "&lt;b&gt;bold&lt;/b&gt;" in page.get_content()
    assert "<b>bold" not in page.get_content()


def test_a_mail_server_that_is_down_is_told_as_such_without_its_address(tmp_path: Path) -> None:
    host = f"alice:hunter2-of-alice@127.0.0.1:{free_port()}"
    url = f"mailto://{host}?from=rekeyd@example.org&to=ops@example.org&mode=insecure"
    (channel,) = apprise_channels(urls_file(tmp_path, url))
    with pytest.raises(TemporaryError, match=r"did not take the message, .* nobody listens there") as raised:
        channel.send(message())
    assert "hunter2" not in str(raised.value) + channel.name
    assert channel.name.startswith("mailto-")


PASSWORD = "hunter2-of-alice-0042"


def _authenticator(_server: object, _session: object, _envelope: object, _mechanism: str, given: Any) -> Any:
    from aiosmtpd.smtp import AuthResult

    right = (given.login, given.password) == (b"alice", PASSWORD.encode())
    # Not `handled`: the server would leave the answer to us, and the client would wait for five minutes.
    return AuthResult(success=right, handled=False)


@contextmanager
def submission_server(folder: Path, box: Mailbox) -> Iterator[int]:
    """As providers run them: nothing before STARTTLS and a login; the certificate is of an authority in `folder`."""
    authority = Authority(folder, "mail-ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue("mail", "127.0.0.1"))
    with smtp_server(
        box, tls_context=context, require_starttls=True, auth_required=True, authenticator=_authenticator
    ) as port:
        yield port


def submission_url(port: int, *, password: str = PASSWORD, mode: str = "starttls") -> str:
    return f"mailto://alice:{password}@127.0.0.1:{port}?from=rekeyd@example.org&to=ops@example.org&mode={mode}"


def test_a_mail_goes_over_starttls_with_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox()
    with submission_server(tmp_path, box) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail-ca.pem"))
        (channel,) = apprise_channels(urls_file(tmp_path, submission_url(port)))
        channel.send(message())
    (mail,) = box.mails
    assert mail["To"] == "ops@example.org"
    text = mail.get_body(("plain",))
    assert text is not None
    assert "für immer" in text.get_content()


@pytest.mark.parametrize(
    ("trusted", "password", "mode", "why"),
    [
        (False, PASSWORD, "starttls", "its certificate is not trusted"),
        (True, "not-the-password-0001", "starttls", "it refused user and password"),
        (True, PASSWORD, "insecure", "it offers no login"),
    ],
    ids=["a certificate of an unknown authority", "a wrong password", "without TLS"],
)
def test_a_mail_server_that_refuses_gets_no_mail_and_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, password: str, mode: str, why: str
) -> None:
    box = Mailbox()
    with submission_server(tmp_path, box) as port:
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail-ca.pem"))
        (channel,) = apprise_channels(urls_file(tmp_path, submission_url(port, password=password, mode=mode)))
        with pytest.raises(TemporaryError, match=why) as raised:
            channel.send(message())
    assert box.mails == []
    assert password not in str(raised.value)


def test_a_service_that_answers_with_a_status_is_told_with_it(tmp_path: Path) -> None:
    with serving(Scripted(404)) as server:
        (channel,) = apprise_channels(urls_file(tmp_path, f"json://127.0.0.1:{server.server_port}/T0KEN"))
        with pytest.raises(TemporaryError, match=r"it answered 404$") as raised:
            channel.send(message())
    assert "T0KEN" not in str(raised.value)


def test_nothing_that_apprise_logs_goes_any_further(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(Scripted(200)) as server, caplog.at_level("DEBUG"):
        (channel,) = apprise_channels(urls_file(tmp_path, f"json://127.0.0.1:{server.server_port}/T0KEN"))
        channel.send(message())
    assert not [record for record in caplog.records if record.name.startswith("apprise")]
    assert "für immer" not in "".join(capfd.readouterr())


def test_a_url_that_apprise_does_not_know_is_a_channel_that_fails(tmp_path: Path) -> None:
    file = urls_file(tmp_path, "nonsense://T0KEN")
    with pytest.raises(ConfigError, match='begins with "nonsense:"') as raised:
        apprise_channels(file)
    assert "T0KEN" not in str(raised.value)
    (broken,) = channels_of(ChannelSettings(urls_file=file), sessions("http://127.0.0.1:1"))
    assert broken.name == "apprise"
    with pytest.raises(ConfigError, match="does not understand"):
        broken.send(message())


def test_the_names_of_channels_do_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    one, two = "json://127.0.0.1:1/a", "json://127.0.0.1:1/b"
    before = {channel.name for channel in apprise_channels(urls_file(tmp_path, one, two))}
    after = {channel.name for channel in apprise_channels(urls_file(tmp_path, two, one))}
    assert before == after
    assert len(before) == 2


# --- what is too long ------------------------------------------------------------------------------------------------


class Narrow(HTTPServer):
    """A chat server that refuses what is longer than `most`, as services do."""

    def __init__(self, most: int) -> None:
        super().__init__(("127.0.0.1", 0), _Narrow)
        self.most = most
        self.taken: list[str] = []
        self.refused = 0

    def channels(self, folder: Path, *, query: str = "") -> tuple[AppriseChannel, ...]:
        return apprise_channels(urls_file(folder, f"mmost://127.0.0.1:{self.server_port}/T0KEN{query}"))


class _Narrow(BaseHTTPRequestHandler):
    server: Narrow

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        fits = len(said) <= self.server.most
        if fits:
            self.server.taken.append(said)
        else:
            self.server.refused += 1
        self.send_response(200 if fits else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_storm_is_shortened_to_what_the_service_takes(tmp_path: Path) -> None:
    server = Narrow(4000)
    storm = message("x" * 200, alarms=300)
    assert len(storm.text) > 4000
    with serving(server):
        (channel,) = server.channels(tmp_path)
        channel.send(storm)
    (said,) = server.taken
    assert said.index("CRITICAL: x") < said.index("HIGH: x")
    shown = said.count("What to do:")
    assert shown > 1
    assert said.endswith(f"and {300 - shown} more. All of them: rekeyd alarms list")


def test_an_overflow_that_the_url_names_counts(tmp_path: Path) -> None:
    server = Narrow(4000)
    with serving(server):
        (splitting,) = server.channels(tmp_path, query="?overflow=split")
        splitting.send(message("x" * 200, alarms=300))
        assert len(server.taken) > 1
        assert "and 280 more" in server.taken[-1]
        (as_it_is,) = server.channels(tmp_path, query="?overflow=upstream")
        with pytest.raises(MessageRefusedError, match="it answered 400"):
            as_it_is.send(message("x" * 200, alarms=300))


WIDTHS = {
    "pagerduty://" + "A" * 32 + "@" + "B" * 32: 1024,
    "discord://" + "1" * 24 + "/" + "a" * 68: 2000,
    "tgram://123456789:" + "a" * 35 + "/12315544/": 4096,
    "workflows://127.0.0.1/workflow/signature/": 1000,
    "d7sms://token@15551231234": 160,
}


@pytest.mark.parametrize("url", WIDTHS, ids=lambda url: url.partition(":")[0])
@pytest.mark.parametrize("alarms", [1, 2, 300])
@pytest.mark.parametrize("text", ["a <b>name</b> & *more*_" * 9, "x" * 5000], ids=["escaped", "long"])
def test_every_service_gets_no_more_than_it_takes(tmp_path: Path, url: str, alarms: int, text: str) -> None:
    (channel,) = apprise_channels(urls_file(tmp_path, url))
    (service,) = channel._apprise
    got: list[tuple[str, str]] = []

    def send(*, body: str, title: str = "", **_: object) -> bool:
        got.append((title, body))
        return True

    service.send = send
    channel.send(message(text, alarms=alarms))
    ((title, body),) = got
    inside = title if service.overflow_amalgamate_title else ""
    assert service.body_maxlen == WIDTHS[url]
    assert len(body) + len(inside) <= WIDTHS[url]
    assert len(body) + len(title) > min(WIDTHS[url] / 2, 500)
    assert "CRITICAL" in title + body


# --- the webhook -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("webhook_receiver", DOC)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def receiver(example: ModuleType) -> Iterator[Any]:
    with serving(example.Receiver(SECRET.encode(), ("127.0.0.1", 0))) as server:
        yield server


@contextmanager
def serving(server: HTTPServer) -> Iterator[HTTPServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def webhook(tmp_path: Path, port: int, *, secret: str = SECRET) -> Webhook:
    url_file, secret_file = tmp_path / "url", tmp_path / "secret"
    write_secret(url_file, f"http://127.0.0.1:{port}/alarms")
    write_secret(secret_file, secret)
    return Webhook(url_file=url_file, secret_file=secret_file)


def test_the_example_receiver_takes_what_is_signed_once(tmp_path: Path, receiver: Any) -> None:
    channel = webhook(tmp_path, receiver.server_port)
    channel.send(message())
    channel.send(message())
    (taken,) = receiver.messages
    assert taken["id"] == "a1b2c3d4"
    assert taken["alarms"][0]["account_name"] == "shop"
    assert "für immer" in taken["text"]


def test_the_example_receiver_refuses_a_wrong_signature(tmp_path: Path, receiver: Any) -> None:
    with pytest.raises(RefusedError, match="answered 403"):
        webhook(tmp_path, receiver.server_port, secret="another-secret-0001").send(message())
    assert receiver.messages == []


@pytest.mark.parametrize(
    ("seconds", "change", "genuine"),
    [(0, b"", True), (300, b"", True), (301, b"", False), (-301, b"", False), (0, b" ", False)],
    ids=["fresh", "just in time", "recorded", "from the future", "changed on the way"],
)
def test_the_example_receiver_looks_at_time_and_body(
    example: ModuleType, seconds: int, change: bytes, genuine: bool
) -> None:
    from rekeyd.adapters.channel_webhook import signature
    from rekeyd.core.secret import Secret

    header = f"t=1000,v1={signature(Secret(SECRET), '1000', b'{}')}"
    assert example.is_genuine(SECRET.encode(), header, b"{}" + change, now=1000 + seconds) is genuine


class Scripted(HTTPServer):
    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Script)
        self.answers = list(answers)
        self.asked: list[str] = []


class _Script(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.answers.pop(0))
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, TemporaryError),
        (429, TemporaryError),
        (307, TemporaryError),
        (403, RefusedError),
        (413, MessageRefusedError),
    ],
)
def test_a_webhook_that_does_not_take_it_is_asked_once(tmp_path: Path, status: int, error: type[Exception]) -> None:
    with serving(Scripted(status, 200)) as server:
        with pytest.raises(error, match=f"answered {status}"):
            webhook(tmp_path, server.server_port).send(message())
        assert isinstance(server, Scripted)
        assert server.asked == ["/alarms"]


def test_a_webhook_over_the_network_without_tls_is_refused(tmp_path: Path) -> None:
    url_file, secret_file = tmp_path / "url", tmp_path / "secret"
    write_secret(url_file, "http://hooks.example/T0KEN")
    write_secret(secret_file, SECRET)
    with pytest.raises(ConfigError, match="must begin with https") as raised:
        Webhook(url_file=url_file, secret_file=secret_file)
    assert "T0KEN" not in str(raised.value)


def test_a_webhook_that_cannot_be_reached_is_told_without_its_address(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="cannot be reached") as raised:
        webhook(tmp_path, free_port()).send(message())
    assert "alarms" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


# --- Amazon SNS ------------------------------------------------------------------------------------------------------


def sessions(endpoint_url: str) -> AwsSessions:
    return AwsSessions(AwsSettings(region="us-east-1", endpoint_url=endpoint_url), instance="test")


def test_an_alarm_arrives_in_a_queue_by_way_of_sns(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmulatedAws(hub=ACCOUNT) as aws:
        for name, value in aws.daemon_environment().items():
            monkeypatch.setenv(name, value)
        sns, sqs = aws.client("sns"), aws.client("sqs")
        topic = sns.create_topic(Name="rekeyd")["TopicArn"]
        queue = sqs.create_queue(QueueName="ops")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        (channel,) = channels_of(ChannelSettings(sns_topic_arn=topic), sessions(aws.url))
        channel.send(message("x" * 400))
        (received,) = sqs.receive_message(QueueUrl=queue)["Messages"]
        told = json.loads(received["Body"])
        assert told["Subject"].startswith("rekeyd test: CRITICAL: x")
        assert len(told["Subject"]) < 100
        assert json.loads(told["Message"])["alarms"][0]["reason"] == "root_access_key"

        (gone,) = channels_of(ChannelSettings(sns_topic_arn=topic + "-gone"), sessions(aws.url))
        with pytest.raises(RefusedError, match=f"sns:Publish for {ACCOUNT}"):
            gone.send(message())
        with aws_denies(aws, "Publish"), pytest.raises(RefusedError, match="sns:Publish"):
            channel.send(message())


@contextmanager
def aws_denies(aws: EmulatedAws, action: str) -> Iterator[None]:
    denial = aws.deny(ACCOUNT, action)
    yield
    denial.lift()


# --- the dead-man's switch -------------------------------------------------------------------------------------------


@pytest.fixture
def switched(tmp_path: Path) -> Callable[[int], Heartbeat]:
    def make(port: int) -> Heartbeat:
        write_secret(tmp_path / "beat", f"http://127.0.0.1:{port}/beat")
        return Heartbeat(tmp_path / "beat")

    return make


def test_passes_that_ended_well_feed_the_switch_and_silence_does_not(switched: Callable[[int], Heartbeat]) -> None:
    with serving(Scripted(200, 200)) as server:
        assert isinstance(server, Scripted)
        heart = switched(server.server_port)
        heart.send()
        assert server.asked == []
        for _ in range(30):
            heart.wish()
        heart.send()
        heart.send()
        assert server.asked == ["/beat"]
        heart.wish()
        heart.send()
        assert server.asked == ["/beat", "/beat"]


def test_a_switch_that_does_not_answer_is_tried_twice_and_told_once(
    switched: Callable[[int], Heartbeat], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    with serving(Scripted(500, 500, 500, 500)) as server:
        heart = switched(server.server_port)
        for _ in range(2):
            heart.wish()
            heart.send()
        assert isinstance(server, Scripted)
        assert server.answers == []
    told = [line for line in log_lines() if line["event"] == "notification.failed"]
    assert [line["error"] for line in told] == ["the heartbeat's address answered 500"]
