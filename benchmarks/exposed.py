"""How long an operator's one command takes to answer an exposed key.

    python benchmarks/exposed.py          the installed program, an emulated AWS, a real OpenBao

From the start of `rotate-now --emergency --revoke-sessions` to its end: the key replaced and proven, the old one
Inactive, its sessions denied, its roles listed. The emulated AWS honours changes at once: the real one takes seconds.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rekeyd.demo.openbao import OpenBaoServer
from tests.acceptance.stand import Stand, standing
from tests.acceptance.test_exposed_key import operator, refusal, session_of

ROUNDS = 5


def main() -> None:
    with OpenBaoServer() as bao, tempfile.TemporaryDirectory() as folder:
        bao.enable_kv("bench")
        with standing(bao, Path(folder) / "rekeyd", mount="bench") as stand:
            stand.write_config({"overlap": "1h", "quarantine": "1h"})
            took = [_answer(stand, f"ci-{number}") for number in range(ROUNDS)]
    each = ", ".join(f"{seconds:.1f}" for seconds in took)
    print(f"rotate-now --emergency --revoke-sessions, start to end: {each} s, without propagation delay")


def _answer(stand: Stand, name: str) -> float:
    user = stand.user(name)
    stand.aws.world.admins.add(user.user_id)
    old = user.key.access_key_id
    stolen = session_of(stand, old)
    assert refusal(stolen) is None
    command = ("rotate-now", name, "--emergency", "--revoke-sessions", "--yes", "--json", *operator(stand))
    began = time.monotonic()
    ran = stand.start(*command).wait()
    took = time.monotonic() - began
    assert ran.code == 0, ran.err
    assert stand.aws.key(old).status == "Inactive"
    assert refusal(stolen) == "AccessDenied"
    assert stand.serves_a_live_pair(name)
    return took


if __name__ == "__main__":
    main()
