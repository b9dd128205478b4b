"""A process that commits intents and says each when it is committed: `intents_process.py URL COUNT [PRAGMA…]`.

The pragmas weaken every connection of the journal on purpose.
"""

import sqlite3
import sys

from rekeyd.adapters import journal_sqlite
from rekeyd.adapters.journal import open_journal
from tests.unit.journal_stand import Stand, user
from tests.world.clock import VirtualClock

# So that a few hundred commits see the log move into the database many times.
_PAGES_A_CHECKPOINT = 30


def main(url: str, count: str, *pragmas: str) -> None:
    usual = journal_sqlite._set_pragmas

    def set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
        usual(connection, _record)
        for pragma in (f"wal_autocheckpoint={_PAGES_A_CHECKPOINT}", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    journal_sqlite._set_pragmas = set_pragmas
    with open_journal(url, instance="test", clock=VirtualClock()) as journal:
        stand = Stand(journal, VirtualClock())
        for number in range(int(count)):
            principal = user(f"user-{number}", f"AIDA{number}")
            stand.intend(stand.open(principal), principal)
            print(f"user-{number}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
