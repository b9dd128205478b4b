"""The running daemon tells people by a signed webhook: in time, once, over a restart, and what they missed."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rekeyd.demo.emulator import HUB
from tests.acceptance.stand import Stand, eventually
from tests.integration.test_channels import DOC, SECRET, Scripted, serving
from tests.secret_registry import write_secret

CHECK_EVERY = 1.0


def _example() -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("webhook_receiver", DOC)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def receiving(port: int = 0) -> Iterator[Any]:
    server = _example().Receiver(SECRET.encode(), ("127.0.0.1", port))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


def _told(server: Any, reason: str = "root_access_key") -> list[str]:
    return [each["notice"] for message in server.messages for each in message["alarms"] if each["reason"] == reason]


def _configure(stand: Stand, port: int, beat_port: int) -> None:
    url, secret, beat = (stand.folder / name for name in ("webhook-url", "webhook-secret", "heartbeat-url"))
    write_secret(url, f"http://127.0.0.1:{port}/alarms")
    write_secret(secret, SECRET)
    write_secret(beat, f"http://127.0.0.1:{beat_port}/beat")
    config = stand.write_config()
    alarms = f"""[alarms]
webhook_url_file = "{url}"
webhook_secret_file = "{secret}"
heartbeat_url_file = "{beat}"
repeat_every = "1h\""""
    config.write_text(config.read_text().replace('[alarms]\nrepeat_every = "5s"', alarms))


def test_a_root_key_reaches_people_in_time_and_once_over_a_restart(stand: Stand) -> None:
    with serving(Scripted(*[200] * 500)) as beats, receiving() as server:
        assert isinstance(beats, Scripted)
        _configure(stand, server.server_port, beats.server_port)
        with stand.daemon() as daemon:
            daemon.wait_for_event("pass.finished")
            eventually(lambda: beats.asked, "the heartbeat of a pass that ended well")
            appeared = time.monotonic()
            stand.aws.add_root_key(HUB)
            eventually(lambda: _told(server), "the message")
            assert time.monotonic() - appeared <= CHECK_EVERY + 5
        assert _told(server) == ["raised"]
        with stand.daemon() as daemon:
            daemon.wait_for_event("pass.finished")
            stand.aws.remove_root_key(HUB)
            stand.aws.forget_report(HUB)
            eventually(lambda: len(_told(server)) > 1, "the end")
        assert _told(server) == ["raised", "resolved"]


def test_what_a_receiver_missed_is_told_after_a_restart(stand: Stand) -> None:
    with receiving() as server:
        port = server.server_port
    # Nobody listens there now.
    _configure(stand, port, port)
    stand.aws.add_root_key(HUB)
    with stand.daemon() as daemon:
        eventually(
            lambda: [e for e in daemon.events if e["event"] == "notification.failed" and e["channel"] == "webhook"],
            "a try that failed",
        )
        assert f"127.0.0.1:{port}" not in daemon.err
    with receiving(port) as server, stand.daemon():
        eventually(lambda: _told(server), "the message that was missed", limit=40)
        assert _told(server) == ["raised"]
