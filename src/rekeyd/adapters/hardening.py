"""P7: what must not be left of this process's memory."""

import contextlib
import ctypes
import os
import resource

from rekeyd.errors import StateError

# Numbers of linux/prctl.h.
_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """No core file, no ptrace and no /proc/PID/mem for anybody of the same user. StateError: the kernel refused."""
    # A hardened unit forbids the call, and sets the limit itself (LimitCORE=0).
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # This is what counts: the limit does not bind a core_pattern that is a pipe.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise StateError(f"core dumps cannot be switched off: {os.strerror(ctypes.get_errno())}")
