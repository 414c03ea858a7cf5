"""Threads that wait without keeping a core busy."""

import os
import sys


def wait_patiently() -> bool:
    """Lets torch's threads sleep while they wait for each other, instead of spinning. False where it is too late.

    A training shares its cores with the processes that read crops. Threads that spin take from them, and from each
    other, the time that they wait for: met on 2 cores beside other work, steps of 4 to 9 s instead of 0.2 s. OpenMP
    asks the environment once, when it is loaded: call this before anything imports torch. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return "torch" not in sys.modules
