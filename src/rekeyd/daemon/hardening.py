"""P7: what must not be left of this process's memory."""

import ctypes
import os
import resource

from rekeyd.errors import StateError

# Numbers of linux/prctl.h.
_PR_SET_DUMPABLE = 4
_PR_GET_DUMPABLE = 3


def forbid_core_dumps() -> None:
    """No core file, no ptrace and no /proc/PID/mem for anybody of the same user. StateError: the kernel refused."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    # The limit alone does not bind a core_pattern that is a pipe.
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise StateError(f"core dumps cannot be switched off: {os.strerror(ctypes.get_errno())}")


def core_dumps_forbidden() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    dumpable: int = libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    return dumpable == 0 and resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
