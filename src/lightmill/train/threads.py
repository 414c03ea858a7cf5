"""What a training asks of the process: threads that wait without keeping a core busy, and memory that is kept."""

import ctypes
import os
import platform
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
_KEPT = 1 << 30  # bytes: larger arrays are rare, and go back to the system
_AHEAD = 1 << 27


def wait_patiently() -> bool:
    """Lets torch's threads sleep while they wait for each other, instead of spinning. False where it is too late.

    A training shares its cores with the processes that read crops. Threads that spin take from them, and from each
    other, the time that they wait for: met on 2 cores beside other work, steps of 4 to 9 s instead of 0.2 s. OpenMP
    asks the environment once, when it is loaded: call this before anything imports torch. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return "torch" not in sys.modules


def keep_memory() -> bool:
    """Lets glibc keep the memory of tensors that are gone for those to come. False where there is no glibc.

    A step makes and drops the same large arrays as the one before. By its defaults glibc maps each of them anew, so
    the system has to clear every page: a third of the CPU time of a step of a small network, measured on 2 cores.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _AHEAD))
    return all(mallopt(name, value) for name, value in settings)
