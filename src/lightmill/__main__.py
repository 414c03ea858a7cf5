"""The command `lightmill`."""

import sys


def main() -> None:
    """Run the command line; a Ctrl-C while it starts ends without a traceback."""
    try:
        from lightmill.cli import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command again goes on\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
