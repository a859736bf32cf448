"""`verispect`: finds the subcommand, runs it, and turns our errors into messages and exit codes.

Exit codes: 0 verified or done, 1 refused, 2 usage, 3 malformed, 4 could not tell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from verispect import __version__
from verispect.cli import ask, inspect, keys, models, policy, serve, verify
from verispect.core.errors import (
    Error,
    MalformedError,
    RequestError,
    TrustError,
    UnsupportedError,
    VerificationError,
)

EXIT_DONE: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_MALFORMED: Final = 3
EXIT_COULD_NOT_TELL: Final = 4

_COMMANDS: Final = (serve, ask, verify, inspect, models, keys, policy)


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
    parsed = build_parser().parse_args(arguments)
    commands = {module.__name__.rpartition(".")[2]: module for module in _COMMANDS}
    try:
        code: int = commands[parsed.command].run(parsed)
        return code
    except Error as error:
        print(f"verispect: error: {error.message} ({error.reason.value})", file=sys.stderr)
        return exit_code(error)
    except ModuleNotFoundError as error:
        print(f"verispect: error: {error.name} is not installed", file=sys.stderr)
        print("verispect: hint: pip install 'verispect[all]'", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        return EXIT_DONE
    except KeyboardInterrupt:
        return 130


def exit_code(error: Error) -> int:
    """Return the exit code of an error: no, not understood, and could not tell differ."""
    if isinstance(error, VerificationError):
        return EXIT_REFUSED
    if isinstance(error, MalformedError):
        return EXIT_MALFORMED
    if isinstance(error, (TrustError, UnsupportedError)):
        return EXIT_COULD_NOT_TELL
    if isinstance(error, RequestError):
        return EXIT_USAGE
    return EXIT_COULD_NOT_TELL


if __name__ == "__main__":
    sys.exit(main())
