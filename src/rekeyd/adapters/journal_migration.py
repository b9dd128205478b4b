"""Bring a journal's schema up to date, or say why not.

Alembic is imported only when there is something to do: most starts find a current schema.
"""

import sqlalchemy as sa

from rekeyd.adapters.journal_schema import REVISIONS
from rekeyd.errors import JournalError

_VERSION_TABLE = "alembic_version"


def revision_of(conn: sa.Connection) -> str | None:
    """The revision of the schema; None: an empty database. JournalError: a newer rekeyd's, or not a journal."""
    tables = sa.inspect(conn).get_table_names()
    if not tables:
        return None
    if _VERSION_TABLE not in tables:
        raise JournalError(
            f"the database is not a journal of rekeyd: it has {len(tables)} tables and no schema version",
            hint="set journal.url to a file of its own",
        )
    row = conn.execute(sa.text(f"SELECT version_num FROM {_VERSION_TABLE}")).first()  # noqa: S608 - our own constant
    if row is None:
        raise JournalError("the journal has no schema version", hint="restore the journal from a backup")
    revision = str(row[0])
    if revision not in REVISIONS:
        raise JournalError(
            f"the journal's schema {revision} is newer than this program, which knows up to {REVISIONS[-1]}",
            hint="install the rekeyd that wrote it, or a newer one",
        )
    return revision


def migrate(conn: sa.Connection) -> None:
    """Inside the caller's write transaction, so that a crash leaves the old schema whole."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "rekeyd:migrations")
    config.attributes["connection"] = conn
    command.upgrade(config, "head")
