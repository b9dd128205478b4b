"""Log lines: closed events, bound fields, no locals, no secrets, nothing chatty from libraries."""

import io
import json
import logging
import re
import warnings
from functools import cache
from pathlib import Path

import pytest

from rekeyd import logs
from rekeyd.core.events import Event, Level, as_markdown
from rekeyd.core.secret import MASK, Secret
from tests.conftest import LogLines

ROOT = Path(__file__).parents[2]
VALUE = "mQ4/tR8vKz+B3nXc6WpLd9sYh2Ga5JfUoE7iT1xC"
TOKEN = "hvs.CAESIJ4mXq8Zt2vB6nRw3kLp9sDf"


def test_a_line_has_its_time_level_event_and_fields(log_lines: LogLines) -> None:
    logs.get_logger().info(Event.KEY_DEACTIVATED, access_key_id="AKIA1", reason="overlap_ended")
    (line,) = log_lines()
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["timestamp"])
    assert (line["level"], line["event"], line["access_key_id"]) == ("info", "key.deactivated", "AKIA1")


def test_what_is_bound_is_in_every_line_of_the_block_and_in_none_after(log_lines: LogLines) -> None:
    log = logs.get_logger()
    with logs.bound(pass_id="p1", account_id="111122223333"):
        with logs.bound(principal="ci", account_id=None):
            log.info(Event.KEY_CREATED)
        log.info(Event.PASS_FINISHED)
    log.info(Event.DAEMON_STOPPED)
    inner, outer, after = log_lines()
    assert (inner["pass_id"], inner["principal"], "account_id" in inner) == ("p1", "ci", False)
    assert (outer["account_id"], "principal" in outer) == ("111122223333", False)
    assert "pass_id" not in after


def test_an_unlisted_event_raises_in_tests(log_lines: LogLines) -> None:
    with pytest.raises(logs.UnlistedEventError, match=r"key\.vanished"):
        logs.get_logger().info("key.vanished")
    assert log_lines() == []


def test_an_unlisted_event_is_logged_and_marked_in_production() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream, strict=False)
    logs.get_logger().warning("key.vanished", access_key_id="AKIA1")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["unlisted"], line["access_key_id"]) == ("key.vanished", True, "AKIA1")


def test_the_strict_variable_decides_when_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(logs.STRICT_VARIABLE)
    logs.configure(stream=io.StringIO())
    logs.get_logger().info("key.vanished")
    monkeypatch.setenv(logs.STRICT_VARIABLE, "1")
    logs.configure(stream=io.StringIO())
    with pytest.raises(logs.UnlistedEventError, match="not in"):
        logs.get_logger().info("key.vanished")


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream, level="WARNING")
    log = logs.get_logger()
    log.info(Event.KEY_CREATED)
    log.critical(Event.ROOT_KEY_PRESENT)
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == ["critical"]


@pytest.mark.parametrize(("style", "level"), [("xml", "info"), ("json", "loud")])
def test_an_unknown_style_or_level_is_refused(style: str, level: str) -> None:
    with pytest.raises(ValueError, match=r"xml|loud"):
        logs.configure(style=style, level=level)


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_shows_no_locals(style: str) -> None:
    stream = io.StringIO()
    logs.configure(style=style, stream=stream)

    def step(secret: Secret) -> None:
        plain = secret.reveal()
        raise RuntimeError(f"lost after {len(plain)} characters")

    try:
        step(Secret(VALUE))
    except RuntimeError:
        logs.get_logger().exception(Event.PRINCIPAL_FAILED)
    text = stream.getvalue()
    assert "lost after 40 characters" in text
    assert "in step" in text
    assert VALUE not in text
    assert "plain = " + VALUE[:4] not in text


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    {
        "a Secret": {"value": Secret(VALUE)},
        "a Secret within a list": {"value": [{"deep": Secret(VALUE)}]},
        "by name": {"secret_access_key": VALUE},
        "by name within a table": {"answer": {"SecretAccessKey": VALUE}},
        "a Vault token": {"message": f"permission denied for {TOKEN}"},
        "in the words of an answer": {"message": f"<SecretAccessKey>{VALUE}</SecretAccessKey>"},
        "in JSON": {"message": json.dumps({"secret_access_key": VALUE})},
    }.items(),
    ids=lambda case: case[0],
)
def test_a_secret_is_masked(style: str, fields: tuple[str, dict[str, object]]) -> None:
    stream = io.StringIO()
    logs.configure(style=style, stream=stream)
    logs.get_logger().info(Event.KEY_CREATED, **fields[1])
    text = stream.getvalue()
    assert MASK in text
    assert VALUE not in text
    assert TOKEN not in text


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "arn:aws:iam::111122223333:role/service-role/a-rather-long-name-of-a-role-here",
        "0123456789abcdef0123456789abcdef01234567",
        "/var/lib/rekeyd/journal.db",
        "2026-11-23T19:31:37.993917Z",
        "vars.example.internal.name.of.some.length",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert logs.redacted({"message": text}) == {"message": text}


def test_an_object_of_a_foreign_type_is_named_by_its_type_alone(log_lines: LogLines) -> None:
    class Foreign:
        def __repr__(self) -> str:
            return VALUE

    logs.get_logger().info(Event.KEY_CREATED, thing=Foreign(), place=Path("/etc"))
    (line,) = log_lines()
    assert (line["thing"], line["place"]) == ("<Foreign>", "/etc")


def test_libraries_are_heard_from_warnings_on_whatever_the_level(log_lines: LogLines) -> None:
    library = logging.getLogger("botocore.parsers")
    library.debug("response: %s", "<CreateAccessKeyResponse/>")
    library.info("response: %s", "<CreateAccessKeyResponse/>")
    library.warning("retrying %s", "ListUsers")
    (line,) = log_lines()
    assert (line["event"], line["logger"], line["message"]) == (
        "library.logged",
        "botocore.parsers",
        "retrying ListUsers",
    )


def test_a_library_that_was_set_to_debug_is_still_not_heard(log_lines: LogLines) -> None:
    library = logging.getLogger("botocore.endpoint")
    library.setLevel(logging.DEBUG)
    library.debug("response: %s", "<CreateAccessKeyResponse/>")
    library.setLevel(logging.NOTSET)
    assert log_lines() == []


def test_a_critical_line_of_a_library_stays_critical(log_lines: LogLines) -> None:
    logging.getLogger("uvicorn").critical("cannot bind")
    assert log_lines()[0]["level"] == "critical"


def test_a_broken_line_of_a_library_ends_nothing_and_shows_nothing(
    log_lines: LogLines, capsys: pytest.CaptureFixture[str]
) -> None:
    # pytest's own handler raises on such a line, so ours is called by itself.
    (handler,) = [handler for handler in logging.getLogger().handlers if type(handler).__module__ == "rekeyd.logs"]
    handler.handle(logging.LogRecord("hvac", logging.WARNING, __file__, 1, "%d", (VALUE,), None))
    assert log_lines() == []
    assert capsys.readouterr().err == "a log line of hvac could not be written\n"


def test_a_warning_of_python_becomes_a_line(log_lines: LogLines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in log_lines()[0]["message"]


def test_the_page_of_events_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    assert page == as_markdown(), "run `make docs`"


@pytest.mark.parametrize("event", Event, ids=str)
def test_an_event_is_named_noun_dot_verb_and_has_a_sentence(event: Event) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", event.value)
    assert event.sentence.endswith((".", "words."))
    assert len(event.sentence) > 10
    assert isinstance(event.level, Level)


@pytest.mark.parametrize("event", Event, ids=str)
def test_every_event_is_logged_somewhere_in_the_code(event: Event) -> None:
    uses = re.compile(rf"\bEvent\.{event.name}\b")
    source = ROOT / "src" / "rekeyd"
    assert any(uses.search(text) for path, text in _texts(source) if path != source / "core" / "events.py")


@cache
def _texts(folder: Path) -> list[tuple[Path, str]]:
    return [(path, path.read_text()) for path in folder.rglob("*.py")]


def test_no_event_name_is_used_twice() -> None:
    assert len({event.value for event in Event}) == len(list(Event.__members__))
