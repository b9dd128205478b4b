"""How soon people hear of a root key by the event queue, and how fast junk is drained.

    python benchmarks/events.py           the whole daemon, an emulated AWS with its queue, a real OpenBao, a webhook

Scans and root checks are an hour apart, so what comes sooner came by the queue. The emulated queue is the slow part of
the second figure: it copies each message many times.
"""

import sys
import tempfile
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rekeyd.demo.emulator import HUB
from rekeyd.demo.openbao import OpenBaoServer
from tests.acceptance import test_events as world
from tests.acceptance.stand import Stand, eventually, standing
from tests.acceptance.test_alarm_channels import receiving

ROUNDS = 5
JUNK = 1_000


def main() -> None:
    with OpenBaoServer() as bao, tempfile.TemporaryDirectory() as folder:
        bao.enable_kv("bench")
        with standing(bao, Path(folder) / "rekeyd", mount="bench") as stand:
            _measure(stand)


def _measure(stand: Stand) -> None:
    queue = world.Queue(stand)
    with receiving() as server:
        world.configure(stand, queue.url, server.server_port)
        queue.put("begin")
        with stand.daemon() as daemon:
            daemon.wait_for_event("pass.finished")
            for number in range(1, ROUNDS + 1):
                made_at = stand.aws.clock.now()
                stand.aws.add_root_key(HUB)
                queue.put(world.event("CreateAccessKey", world.ROOT))
                daemon.wait_for_event("root_key.present", count=number)
                eventually(lambda n=number: len(_raised(server)) >= n, "the message")  # type: ignore[misc]
                sent_at = datetime.fromisoformat(world.sent_in(daemon, number)["timestamp"])
                print(f"root key made -> webhook told: {(sent_at - made_at).total_seconds():.1f} s")
                stand.aws.remove_root_key(HUB)
                stand.aws.forget_report(HUB)
                queue.put(world.event("DeleteAccessKey", world.ROOT))
                eventually(lambda n=number: len(_ended(server)) >= n, "its end")  # type: ignore[misc]
            began_at = stand.aws.clock.now()
            queue.put(*["junk"] * JUNK)
            eventually(lambda: queue.is_empty, "an empty queue")
            print(f"{JUNK} junk messages put and drained: {(stand.aws.clock.now() - began_at).total_seconds():.1f} s")


def _raised(server: object) -> list[str]:
    return [notice for notice in world.told(server) if notice == "raised"]


def _ended(server: object) -> list[str]:
    return [notice for notice in world.told(server) if notice == "resolved"]


if __name__ == "__main__":
    main()
