"""The command `lightmill`."""

import os
import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it starts ends without a traceback."""
    # the engine owns the threads: those that numpy's linear algebra would start only spin beside them
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs 20 ms of every start
    try:
        from lightmill.cli import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command again goes on\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
