"""The command `lightmill`."""

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process; a Ctrl-C while it starts ends without a traceback."""
    # the engine owns the threads: those that numpy's linear algebra would start only spin beside them
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # likewise torch's: beside readers they wait, they do not spin
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs 20 ms of every start
    gc.disable()  # imports make many objects and no garbage; the command line enables it again
    try:
        from lightmill.cli import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command again goes on\n")
        code = 130
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(code)  # all files are closed and all threads are done; taking the modules apart would cost 0.1 s


if __name__ == "__main__":
    main()
