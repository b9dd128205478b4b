"""The journal on a real file: durable, private, migrated, and loud when something is wrong with it."""

import os
import random
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rekeyd.adapters import journal_schema
from rekeyd.adapters.journal import SqlJournal, open_journal
from rekeyd.adapters.journal_sqlite import NETWORK_FILESYSTEMS, _explain, _filesystem_magic, refuse_network_filesystem
from rekeyd.core.reasons import Reason
from rekeyd.errors import ConfigError, JournalError, JournalLockedError, LeaseLostError
from tests.contract.power_cut import Keep, Recorded, Recorder, compiler
from tests.unit.journal_stand import ACCOUNT, CI, OLD, Stand
from tests.world.clock import VirtualClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


def opened(path: Path, *, instance: str = "test", read_only: bool = False) -> SqlJournal:
    return open_journal(f"sqlite:///{path}", instance=instance, clock=VirtualClock(), read_only=read_only)


def test_its_settings_make_a_commit_durable(path: Path) -> None:
    with opened(path) as journal:
        settings = {name: journal._store.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys")}
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


_INTENTS = 40
Recording = Callable[..., Recorded]


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    """Call it with pragmas that weaken the journal, or none: a process that commits intents, and its disk."""
    if compiler() is None:
        # `-ra` of pyproject.toml prints it at the end of every run.
        pytest.skip("NOT TESTED: what a power cut leaves of the journal. This machine has no C compiler (cc)")

    def record(*pragmas: str) -> Recorded:
        disk = tmp_path / "disk"
        disk.mkdir()
        command = [sys.executable, "-m", "tests.contract.intents_process", f"sqlite:///{disk}/state/journal.db"]
        environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return Recorder(tmp_path).run([*command, str(_INTENTS), *pragmas], below=disk, environment=environment)

    return record


def _lost(recorded: Recorded, moments: list[int], into: Path, keep: Keep) -> dict[int, set[str]]:
    """By moment: the intents that were committed by then and are not in the journal that is found after the cut."""
    lost = {}
    for moment, folder in recorded.cuts(moments, into, keep=keep):
        committed = {name for place, name in recorded.said if place < moment}
        with opened(folder / "state" / "journal.db") as journal:
            assert journal.verify().broken_at is None
            with journal._store.read() as conn:
                query = sa.select(journal_schema.rotation.c.user_name).where(
                    journal_schema.rotation.c.id.in_(sa.select(journal_schema.create_intent.c.rotation_id))
                )
                found = set(conn.scalars(query))
        lost[moment] = committed - found
    return lost


@pytest.mark.slow
@pytest.mark.parametrize(
    "left", ["nothing that was not synced", "some of what was not synced", "all that was not synced"]
)
def test_a_power_cut_loses_no_commit(recording: Recording, tmp_path: Path, left: str) -> None:
    recorded = recording()
    draw = random.Random(left)  # noqa: S311 - repeatable, not secret
    keep = {"no": lambda: False, "so": lambda: draw.random() < 0.5, "al": lambda: True}[left[:2]]
    moments = [place + 1 for place, _ in recorded.said]
    # And in the middle of whatever it asked of the disk, from the first commit to the last file that it closed.
    moments += draw.sample(range(moments[0], len(recorded.asked)), 20)
    assert len(recorded.said) == _INTENTS
    assert recorded.synced() > 2 * _INTENTS
    lost = _lost(recorded, sorted(moments), tmp_path / "after", keep)
    assert len(lost) >= _INTENTS
    assert {moment: names for moment, names in lost.items() if names} == {}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["OFF", "NORMAL"])
def test_a_journal_that_syncs_less_is_seen_to_lose_commits(recording: Recording, tmp_path: Path, mode: str) -> None:
    recorded = recording(f"synchronous={mode}")
    moments = [place + 1 for place, _ in recorded.said][::4]
    lost = _lost(recorded, moments, tmp_path / "after", lambda: False)
    assert any(lost.values())


def test_only_its_user_can_read_it(path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o644)
    with opened(path) as journal:
        journal.append("daemon.started", at=VirtualClock().now(), actor="daemon")
        found = [path, *path.parent.glob("journal.db-*"), *(path.parent / "journal.db.owners").iterdir()]
        assert len(found) == 4
        assert {stat.S_IMODE(each.stat().st_mode) for each in found} == {0o600}
        assert stat.S_IMODE((path.parent / "journal.db.owners").stat().st_mode) == 0o700


def test_the_directory_is_made_for_this_user_alone(path: Path) -> None:
    with opened(path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_opening_again_continues(path: Path) -> None:
    with opened(path) as journal:
        journal.append("daemon.started", at=VirtualClock().now(), actor="daemon")
        head = journal.head()
    with opened(path) as journal:
        assert journal.head() == head
        assert journal.schema_revision == journal_schema.REVISIONS[-1]
    assert list((path.parent / "journal.db.owners").iterdir()) == []


@pytest.mark.parametrize("attempt", range(5))
def test_programs_that_open_a_new_journal_at_once_make_one(path: Path, attempt: int) -> None:
    journals: list[SqlJournal] = []
    start = threading.Barrier(6)

    def make() -> None:
        start.wait()
        journals.append(opened(path))

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journals) == 6
    assert len({journal.head() for journal in journals}) == 1
    for journal in journals:
        journal.close()


def test_opening_a_second_time_does_not_drop_the_locks_of_the_first(path: Path) -> None:
    """SQLite's locks are POSIX locks: any descriptor of the file that this process closes would drop them all."""
    with opened(path) as journal, journal._store.read() as conn:
        conn.execute(sa.select(journal_schema.meta)).all()
        before = _locks_on(path)
        opened(path).close()
        assert before
        assert _locks_on(path) == before


def _locks_on(path: Path) -> list[str]:
    inode = str(path.stat().st_ino)
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sorted(" ".join(line[1:]) for line in lines if line[5].endswith(f":{inode}"))


def test_the_migrations_make_the_tables_that_the_program_uses(path: Path) -> None:
    with opened(path) as journal, journal._store.read() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": False})
        assert compare_metadata(context, journal_schema.metadata) == []


def test_the_program_knows_every_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "rekeyd:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == journal_schema.REVISIONS


def test_no_column_can_hold_a_secret() -> None:
    names = {f"{table.name}.{column.name}" for table in journal_schema.metadata.tables.values() for column in table.c}
    assert [name for name in names if any(word in name for word in ("secret", "password", "token"))] == []


def test_a_newer_schema_is_refused(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    conn.close()
    for read_only in (False, True):
        with pytest.raises(JournalError, match="schema 9999 is newer than this program"):
            opened(path, read_only=read_only)


def test_somebody_elses_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE theirs (x)")
    conn.close()
    with pytest.raises(JournalError, match="is not a journal of rekeyd"):
        opened(path)


def test_another_instances_journal_is_refused(path: Path) -> None:
    opened(path).close()
    with pytest.raises(JournalError, match=r'is of instance "test", and journal\.instance is "prod"'):
        opened(path, instance="prod")


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is certainly not a database" * 100)
    with pytest.raises(JournalError, match="is not an SQLite database") as caught:
        opened(path)
    assert caught.value.hint is not None


def test_a_damaged_page_is_named(path: Path) -> None:
    with opened(path) as journal:
        for _ in range(200):
            journal.append("daemon.started", at=VirtualClock().now(), actor="daemon", detail={"x": "y" * 300})
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = os.urandom(len(content) - len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"is corrupt|is not an SQLite database"):
        opened(path).verify()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be opened for writing"):
        opened(tmp_path / "file" / "journal.db")


def test_a_full_disk_is_named_and_nothing_half_done_stays(path: Path) -> None:
    with opened(path) as journal:
        before = journal.head()
        with journal._store.read() as conn:
            conn.exec_driver_sql("PRAGMA max_page_count=1")  # this connection goes back to the pool and is used next
        big = {f"x{n}": "y" * 500 for n in range(100)}
        with pytest.raises(JournalError, match="the disk is full") as caught:
            journal.append("daemon.started", at=VirtualClock().now(), actor="daemon", detail=big)
        assert "free space" in str(caught.value.hint)
        with journal._store.read() as conn:
            conn.exec_driver_sql("PRAGMA max_page_count=1000000")
        assert journal.verify().broken_at is None
        assert journal.head() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SQLITE_FULL", "the disk is full"),
        ("SQLITE_READONLY_DBMOVED", "is read-only"),
        ("SQLITE_BUSY", "stayed locked by another process for 30 s"),
        ("SQLITE_CORRUPT_VTAB", "is corrupt"),
        ("SQLITE_IOERR_FSYNC", "the disk reports an error"),
        ("SQLITE_CANTOPEN", "cannot be opened"),
        ("SQLITE_NOMEM", "cannot be used"),
    ],
)
def test_every_failure_of_sqlite_is_told_in_words(name: str, message: str) -> None:
    error = sqlite3.OperationalError("as sqlite says")
    error.sqlite_errorname = name
    told = _explain(error, Path("/var/lib/rekeyd/journal.db"))
    assert message in told.message
    assert name in told.message


@pytest.mark.parametrize("name", ["SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED"])
def test_a_journal_in_which_another_process_writes_is_told_apart(name: str) -> None:
    error = sqlite3.OperationalError("as sqlite says")
    error.sqlite_errorname = name
    assert isinstance(_explain(error, None), JournalLockedError)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_journal_that_vanishes_while_open_stops_everything(path: Path, how: str) -> None:
    with opened(path) as other:
        stand = Stand(other, VirtualClock())
        stand.open()
        path.unlink()
        if how == "replaced":
            path.touch()
        match = "is gone" if how == "deleted" else "was replaced by another file"
        with pytest.raises(JournalError, match=match):
            stand.account.guard()
        with pytest.raises(JournalError, match=match):
            stand.account.change_intended(CI, OLD, verb="delete", reason=Reason.QUARANTINE_ENDED, at=stand.clock.now())
        with pytest.raises(JournalError, match=match):
            other.beat()
        with pytest.raises(JournalError, match=match):
            other.close()


@pytest.mark.parametrize("magic", sorted(NETWORK_FILESYSTEMS))
def test_a_network_file_system_is_refused(tmp_path: Path, magic: int) -> None:
    with pytest.raises(JournalError, match="file locks cannot be trusted"):
        refuse_network_filesystem(tmp_path, magic_of=lambda _: magic)


def test_the_kernel_is_asked_for_the_file_system() -> None:
    assert _filesystem_magic(Path("/proc")) == 0x9FA0  # PROC_SUPER_MAGIC, linux/magic.h
    assert _filesystem_magic(Path("/nowhere/at/all")) is None


def test_reading_works_beside_a_daemon_and_leaves_no_trace(path: Path) -> None:
    with opened(path) as daemon:
        Stand(daemon, VirtualClock()).open()
        with opened(path, read_only=True) as reader:
            assert reader.holder_of(ACCOUNT) == daemon.holder
            assert [event.event for event in reader.history()] == ["journal.created", "rotation.opened"]
            daemon.append("daemon.stopped", at=VirtualClock().now(), actor="daemon")
            assert reader.history(limit=1)[0].event == "daemon.stopped"
            with pytest.raises(JournalError, match="for reading only"):
                reader.acquire(ACCOUNT, actor="x")
        assert len(list((path.parent / "journal.db.owners").iterdir())) == 1


def test_reading_works_after_the_daemon(path: Path) -> None:
    opened(path).close()
    with opened(path, read_only=True) as reader:
        assert reader.verify().events == 1


def test_reading_what_is_not_there_makes_nothing(path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal"):
        opened(path, read_only=True)
    assert not path.exists()


def test_reading_an_empty_file_does_not_migrate_it(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(JournalError, match="has schema none, and this program needs"):
        opened(path, read_only=True)
    assert path.stat().st_size == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://db/rekeyd", "postgresql is not supported by this version"),
        ("sqlite://host/journal.db", "is not supported by this version"),
        ("sqlite:////x/journal.db?mode=ro", "neither parameters"),
        ("//:hunter2@", "is no database URL"),
    ],
)
def test_a_wrong_url_is_a_configuration_error_that_shows_no_password(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_journal(url, instance="test", clock=VirtualClock())
    assert "hunter2" not in str(caught.value)


def test_statements_never_show_their_parameters(path: Path) -> None:
    with opened(path) as journal:
        with pytest.raises(JournalError) as caught, journal._store.write() as conn:
            conn.execute(sa.insert(journal_schema.meta).values(name="instance", value="hunter2"))
        assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def test_many_threads_write_without_losing_or_breaking_anything(path: Path) -> None:
    with opened(path) as journal:

        def write() -> None:
            for _ in range(25):
                journal.append("daemon.started", at=VirtualClock().now(), actor="daemon")

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.verify().events == 201
        assert journal.verify().broken_at is None


def test_a_closed_journal_gives_its_accounts_back(path: Path) -> None:
    first, second = opened(path), opened(path)
    account = first.acquire(ACCOUNT, actor="daemon")
    assert account is not None
    assert second.acquire(ACCOUNT, actor="daemon") is None
    first.close()
    first.close()
    assert second.acquire(ACCOUNT, actor="daemon") is not None
    with pytest.raises(LeaseLostError, match="no longer held"):
        account.known(CI)
    second.close()
