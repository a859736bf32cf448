"""`verispect`: finds the subcommand, runs it, and turns our errors into messages and exit codes.

Exit codes: 0 verified or done, 1 refused, 2 usage, 3 malformed, 4 could not tell.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Final

from verispect import __version__
from verispect.cli import (
    advise,
    anchor,
    appraise,
    ask,
    attest,
    audit,
    coverage,
    history,
    inspect,
    keys,
    log,
    models,
    node,
    plumbing,
    policy,
    proof,
    serve,
    services,
    simulate,
    status,
    verify,
)
from verispect.cli.outcome import EXIT_COULD_NOT_TELL, EXIT_INTERRUPTED, EXIT_USAGE, tell_error
from verispect.cli.outcome import exit_code as exit_code
from verispect.core.errors import Error

_COMMANDS: Final = (
    serve,
    advise,
    ask,
    verify,
    inspect,
    models,
    services,
    history,
    coverage,
    simulate,
    keys,
    log,
    status,
    node,
    anchor,
    proof,
    policy,
    attest,
    audit,
    appraise,
    plumbing,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="verispect", description="Verifiable AI inference: ask, get a receipt, check it."
    )
    parser.add_argument("--version", action="version", version=f"verispect {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # Text of others is printed: what the terminal cannot show is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = build_parser().parse_args(arguments)
    commands = {module.__name__.rpartition(".")[2]: module for module in _COMMANDS}
    try:
        code: int = commands[parsed.command].run(parsed)
        sys.stdout.flush()
        return code
    except Error as error:
        return tell_error(error)
    except ModuleNotFoundError as error:
        print(f"verispect: error: {error.name} is not installed", file=sys.stderr)
        print("verispect: hint: pip install 'verispect[all]'", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        # Standard output is closed or full. The verdict may be lost, so this is never "verified".
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"verispect: error: cannot write: {error.strerror}", file=sys.stderr)
        return EXIT_COULD_NOT_TELL
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
