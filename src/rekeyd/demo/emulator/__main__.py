"""`python -m rekeyd.demo.emulator [SEED.json]`: an emulated AWS until SIGTERM or Ctrl-C.

The seed is a list of users: `{"account": ..., "name": ..., "path": ..., "tags": {...},
"key_age_days": ...}`, or of root keys: `{"account": ..., "root": true}`. Prints one JSON document with the
URL and the environment for a client, credentials included: they are worth nothing elsewhere.
"""

import json
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rekeyd.demo.emulator.server import EmulatedAws


def main(argv: Sequence[str]) -> int:
    # Before any thread starts, so that all of them leave the signals to sigwait.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with EmulatedAws() as aws:
        for entry in json.loads(Path(argv[0]).read_text(encoding="utf-8")) if argv else ():
            if entry.get("root"):
                aws.add_root_key(entry["account"])
                continue
            days = entry.get("key_age_days")
            aws.create_user(
                entry["account"],
                entry["name"],
                path=entry.get("path", "/"),
                tags=entry.get("tags"),
                key_age=None if days is None else timedelta(days=days),
            )
        document = {"url": aws.url, "environment": aws.daemon_environment()}
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
