"""`rekeyd run` as a process: what it does by itself, and what it leaves alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rekeyd.demo.emulator import HUB, Hold
from tests.acceptance.stand import Stand, eventually

_CHANGES = ("Create", "Update", "Delete", "Put", "Attach", "Tag")


def _get(stand: Stand, path: str) -> tuple[int, str]:
    """HTTP status (0: nobody listens) and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{stand.http_port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _metric(stand: Stand, series: str) -> float | None:
    """The value of `name{labels}` as it stands in the exposition; None: it is not there."""
    for line in _get(stand, "/metrics")[1].splitlines():
        name, _, value = line.rpartition(" ")
        if name == series:
            return float(value)
    return None


def _ready(stand: Stand) -> bool:
    return _get(stand, "/readyz")[0] == 200


@contextmanager
def _consumer(stand: Stand, *names: str) -> Iterator[Path]:
    """A program that keeps using what Vault serves; yields the file of its counters."""
    status = stand.folder / "consumer.json"
    paths = [part for name in names for part in ("--path", f"{stand.mount}/data/{stand.vault_path(name)}")]
    options = {
        "--vault-addr": stand.bao.address,
        "--token-file": str(stand.token_file),
        "--sts-endpoint": stand.aws.url,
        "--interval": "0.1",
        "--status": str(status),
        "--failures": str(stand.folder / "failures.jsonl"),
    }
    given = [part for option in options.items() for part in option]
    process = subprocess.Popen(
        [sys.executable, "-m", "rekeyd.demo.consumer", *given, *paths],
        env={"PATH": os.defpath, "HOME": str(stand.folder)},
    )
    try:
        eventually(status.exists, "the consumer's first count")
        yield status
    finally:
        process.terminate()
        process.wait(timeout=30)


def _counted(status: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(status.read_text())
    return document


def test_a_due_user_goes_through_the_whole_life_of_a_key_while_its_consumer_never_fails(stand: Stand) -> None:
    user = stand.user("ci")
    old = user.key.access_key_id
    with _consumer(stand, "ci") as counters, stand.daemon() as daemon:
        daemon.wait_for_event("key.deleted")
        daemon.wait_for_event("rotation.closed")
        new = stand.held_id("ci")
        assert new is not None
        assert new != old
        assert stand.statuses("ci") == ["Active"]
        assert stand.serves_a_live_pair("ci")
        eventually(lambda: new in counters.read_text(), "the consumer's use of the new key")
        eventually(lambda: _metric(stand, 'rekeyd_rotations_total{step="closed"}') == 1.0, "the count of rotations")
    names = [line["event"] for line in daemon.events]
    steps = ["key.created", "key.published", "key.deactivated", "key.deleted", "rotation.closed"]
    assert [name for name in names if name in steps] == steps
    (of_ci,) = [c for path, c in _counted(counters)["paths"].items() if path.endswith("/ci")]
    assert of_ci["failures"] == 0
    assert of_ci["calls"] > 10


def test_in_observe_mode_nothing_outside_changes_and_a_root_key_is_alarmed_all_the_same(stand: Stand) -> None:
    stand.user("ci")
    stand.user("empty", held=False)
    stand.aws.add_root_key(HUB, active=False)
    stand.write_config(mode="observe")
    before = stand.held("ci")
    with stand.daemon() as daemon:
        alarm = daemon.wait_for_event("root_key.present")
        daemon.wait_for_event("pass.finished", count=3)
        assert alarm["level"] == "critical"
        assert alarm["reason"] == "root_access_key"
        eventually(lambda: _metric(stand, f'rekeyd_root_access_keys{{account_id="{HUB}"}}') == 1.0, "the metric")
        assert _metric(stand, "rekeyd_observing") == 1.0
        assert _metric(stand, f'rekeyd_principals{{account_id="{HUB}",state="due"}}') == 1.0
    assert [call.op for call in stand.aws.calls() if call.op.startswith(_CHANGES)] == []
    assert stand.held("ci") == before
    assert stand.bao.read("rekeyd/default", mount=stand.mount) is None


def test_a_root_key_is_told_repeated_and_told_to_be_gone(stand: Stand) -> None:
    with stand.daemon() as daemon:
        eventually(lambda: _metric(stand, f'rekeyd_root_access_keys{{account_id="{HUB}"}}') == 0.0, "a clear account")
        stand.aws.add_root_key(HUB)
        first = daemon.wait_for_event("root_key.present")
        assert first["notice"] == "raised"
        eventually(lambda: _metric(stand, f'rekeyd_root_access_keys{{account_id="{HUB}"}}') == 1.0, "the metric")
        eventually(lambda: (_metric(stand, 'rekeyd_alarms{severity="critical"}') or 0) >= 1.0, "the alarm")
        again = daemon.wait_for_event("root_key.present", count=2)
        assert again["notice"] == "repeated"
        stand.aws.remove_root_key(HUB)
        stand.aws.forget_report(HUB)
        cleared = daemon.wait_for_event("root_key.cleared")
        assert cleared["account_id"] == HUB
        eventually(lambda: _metric(stand, f'rekeyd_root_access_keys{{account_id="{HUB}"}}') == 0.0, "the metric's end")


def test_asked_to_stop_while_it_proves_a_new_key_it_leaves_no_orphan_and_ends_in_time(stand: Stand) -> None:
    user = stand.user("ci")
    # The first probe is far away: the step waits when the signal comes.
    stand.write_config({"verify_first": "60s", "verify_timeout": "90s"})
    daemon = stand.start("run")
    daemon.wait_for_event("key.created")
    ran = daemon.stop(limit=30)
    assert ran.code == 0
    assert [line["event"] for line in ran.events][-1] == "daemon.stopped"
    assert stand.held_id("ci") == user.key.access_key_id
    keys = stand.aws.keys(HUB, "ci")
    assert [key.access_key_id for key in keys] == [user.key.access_key_id]


def test_the_next_start_goes_on_where_the_last_one_was_stopped(stand: Stand) -> None:
    stand.user("ci")
    stand.write_config({"overlap": "2s"})
    daemon = stand.start("run")
    daemon.wait_for_event("key.published")
    assert daemon.stop().code == 0
    with stand.daemon() as second:
        second.wait_for_event("rotation.closed")
    assert stand.statuses("ci") == ["Active"]
    assert stand.serves_a_live_pair("ci")


def test_a_second_signal_ends_it_at_once(stand: Stand) -> None:
    stand.user("ci")
    held = stand.aws.fault("CreateAccessKey", do=Hold())
    daemon = stand.start("run")
    eventually(held.hit.is_set, "a call that gets no answer", alive=daemon)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_event("daemon.asked_to_stop")
    assert daemon.stop(limit=10).code == 1
    assert "daemon.stopped" not in [line["event"] for line in daemon.events]


def test_a_step_that_does_not_end_in_time_is_given_up_and_told(stand: Stand) -> None:
    stand.user("ci")
    stand.write_config()
    stand.config.write_text(stand.config.read_text().replace("[fleet]", '[fleet]\nstop_timeout = "1s"'))
    held = stand.aws.fault("CreateAccessKey", do=Hold())
    daemon = stand.start("run")
    eventually(held.hit.is_set, "a call that gets no answer", alive=daemon)
    ran = daemon.stop(limit=20)
    assert ran.code == 1
    (told,) = [line for line in ran.events if line["event"] == "daemon.gave_up"]
    assert told["level"] == "error"
    assert [name.partition(":")[2] for name in told["in_flight"]] == [HUB]


def test_a_good_configuration_is_taken_over_by_sighup_and_a_bad_one_is_not(stand: Stand) -> None:
    stand.user("ci")
    stand.write_config(mode="observe")
    with stand.daemon() as daemon:
        eventually(lambda: _ready(stand), "readiness")
        good = stand.config.read_text()
        stand.config.write_text(good.replace('overlap = "1s"', 'overlap = "soon"'))
        daemon.process.send_signal(signal.SIGHUP)
        rejected = daemon.wait_for_event("config.rejected")
        assert "overlap" in rejected["error"]
        eventually(lambda: _metric(stand, "rekeyd_config_last_reload_successful") == 0.0, "the metric of the bad one")
        assert stand.statuses("ci") == ["Active"]

        stand.write_config()
        stand.config.write_text(stand.config.read_text().replace(f":{stand.http_port}", ":1"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for_event("config.reloaded")
        deferred = daemon.wait_for_event("config.deferred")
        assert deferred["settings"] == ["http.listen"]
        daemon.wait_for_event("rotation.closed")
        assert _metric(stand, "rekeyd_config_last_reload_successful") == 1.0
        assert _metric(stand, "rekeyd_observing") == 0.0
    assert stand.serves_a_live_pair("ci")


def test_it_is_alive_but_not_ready_while_its_vault_token_is_refused(stand: Stand) -> None:
    stand.user("ci", key_age=timedelta(days=1))
    with stand.daemon() as daemon:
        eventually(lambda: _ready(stand), "readiness")
        assert _get(stand, "/healthz") == (200, '{"status":"ok","problems":[]}')
        stand.token_file.write_text("s.not-a-token\n")
        eventually(lambda: "Vault" in _get(stand, "/readyz")[1], "the token's trouble")
        assert _get(stand, "/readyz")[0] == 503
        assert _get(stand, "/healthz")[0] == 200
        daemon.wait_for_event("vault.lost")
        stand.token_file.write_text(stand.bao.root_token + "\n")
        daemon.wait_for_event("vault.recovered")
        eventually(lambda: _ready(stand), "readiness again")


def test_the_api_shows_what_the_journal_knows(stand: Stand) -> None:
    stand.user("ci", key_age=timedelta(days=3))
    with stand.daemon():
        eventually(lambda: _ready(stand), "readiness")
        code, body = _get(stand, "/api/v1/status")
        page = _get(stand, "/")
    document = json.loads(body)
    assert code == 200
    assert document["schema_version"] == 1
    (ci,) = [entry for entry in document["principals"] if entry["user_name"] == "ci"]
    assert ci["state"] == "fresh"
    assert ci["age_days"] == 3
    assert ci["held_access_key_id"] == stand.held_id("ci")
    (account,) = document["accounts"]
    assert account["account_id"] == HUB
    assert account["state"] == "ok"
    assert page[0] == 200
    assert all(text in page[1] for text in ("<!doctype html>", HUB, ">ci<", str(ci["held_access_key_id"])))


def test_credentials_of_a_root_user_are_refused(stand: Stand) -> None:
    root = stand.aws.add_root_key(HUB)
    environment = {"AWS_ACCESS_KEY_ID": root.access_key_id, "AWS_SECRET_ACCESS_KEY": root.secret_access_key}
    ran = stand.run("run", env=environment)
    assert ran.code == 2
    assert ran.events[-1]["event"] == "daemon.stopped"
    assert any("root user" in line.get("error", "") for line in ran.events if line["event"] == "daemon.failed")


def test_a_wrong_configuration_ends_it_before_anything_begins(stand: Stand) -> None:
    stand.config.write_text(stand.config.read_text().replace('overlap = "1s"', 'overlap = "soon"'))
    ran = stand.run("run")
    assert ran.code == 2
    assert "overlap" in ran.err
    assert not stand.journal.exists()


def test_what_rotate_now_began_is_finished_by_the_daemon_beside_it(stand: Stand) -> None:
    stand.user("ci", key_age=timedelta(days=1))
    with stand.daemon() as daemon:
        eventually(lambda: _ready(stand), "readiness")
        ran = stand.run("rotate-now", "ci", "--json")
        assert ran.code == 0, ran.err
        daemon.wait_for_event("rotation.closed")
    assert stand.statuses("ci") == ["Active"]
    assert stand.serves_a_live_pair("ci")


def test_systemd_hears_that_it_is_ready_alive_reloading_and_stopping(stand: Stand) -> None:
    stand.user("ci", key_age=timedelta(days=1))
    address = stand.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(address))
        supervisor.settimeout(60)

        def heard(line: str) -> list[str]:
            while True:
                lines = supervisor.recv(4096).decode().splitlines()
                if line in lines:
                    return lines

        # Both of one process: PID 1 sets WATCHDOG_PID too, which cannot be known before the start.
        environment = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "900000"}
        with stand.daemon(env=environment) as daemon:
            assert any(line.startswith("STATUS=watching 1 account") for line in heard("READY=1"))
            heard("WATCHDOG=1")
            daemon.process.send_signal(signal.SIGHUP)
            reloading = heard("RELOADING=1")
            assert any(line.startswith("MONOTONIC_USEC=") for line in reloading)
            heard("READY=1")
            daemon.process.send_signal(signal.SIGTERM)
            heard("STOPPING=1")


def test_core_dumps_of_it_are_forbidden(stand: Stand) -> None:
    with stand.daemon() as daemon:
        limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] == ["0", "0"]


def test_an_account_that_cannot_be_entered_holds_up_no_other(stand: Stand) -> None:
    other = "222233334444"
    stand.user("ci")
    stand.write_config(accounts={HUB: None, other: f"arn:aws:iam::{other}:role/nobody-made-it"})
    with stand.daemon() as daemon:
        daemon.wait_for_event("rotation.closed")
        failed = daemon.wait_for_event("pass.failed")
        assert failed["account_id"] == other
        code, body = _get(stand, "/readyz")
        assert code == 503
        assert other in body
        assert HUB not in body
        assert _metric(stand, 'rekeyd_accounts{state="unreachable"}') == 1.0
    assert stand.serves_a_live_pair("ci")
