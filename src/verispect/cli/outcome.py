"""What a subcommand says at its end: the verdict or the error on standard error, and an exit code.

Exit codes: 0 verified or done, 1 refused, 2 usage, 3 malformed, 4 could not tell. "No", "not
understood" and "could not tell" never share one.
"""

from __future__ import annotations

import sys
from typing import Final

from verispect.appraisal.result import AttestationResult, Verdict
from verispect.core.errors import (
    Error,
    MalformedError,
    Reason,
    RequestError,
    VerificationError,
)

EXIT_DONE: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_MALFORMED: Final = 3
EXIT_COULD_NOT_TELL: Final = 4
EXIT_INTERRUPTED: Final = 130

_OF_VERDICT: Final = {
    Verdict.VERIFIED: EXIT_DONE,
    Verdict.REFUSED: EXIT_REFUSED,
    Verdict.UNDETERMINED: EXIT_COULD_NOT_TELL,
}
_WORDS: Final = {
    EXIT_REFUSED: "refused",
    EXIT_MALFORMED: "not understood",
}
_HINTS: Final = {
    Reason.KEY_UNKNOWN: "the trusted root lists whom you trust; this issuer is not in it",
    Reason.TRUSTED_ROOT_STALE: "get a current trusted root from whom you trust",
    Reason.DEVELOPMENT_KEY: "a policy with development_keys = true accepts it, for trials only",
    Reason.CONTENT_NOT_OPENED: "give the openings with --openings",
    Reason.MALFORMED_POLICY: "verispect policy show signed prints a policy in full",
    Reason.ASSURANCE_UNKNOWN: "the gateway's /.well-known/verispect lists what it delivers",
    Reason.NETWORK_FAILED: "is the gateway running, and is this its address?",
}


def plain(text: object) -> str:
    """Return text of others without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def exit_code(error: Error) -> int:
    """Return the exit code of an error: no, not understood, and could not tell differ."""
    if isinstance(error, VerificationError):
        return EXIT_REFUSED
    if isinstance(error, MalformedError):
        return EXIT_MALFORMED
    if isinstance(error, RequestError):
        return EXIT_USAGE
    return EXIT_COULD_NOT_TELL


def tell_error(error: Error) -> int:
    """Print an error, and what to do about it where that is known; return its exit code."""
    print(f"verispect: error: {plain(error.message)} ({error.reason.value})", file=sys.stderr)
    hint = _HINTS.get(error.reason)
    if hint is not None:
        print(f"verispect: hint: {hint}", file=sys.stderr)
    return exit_code(error)


def tell_failure(error: Error) -> int:
    """Print that an answer did not verify, and why; return the exit code."""
    code = exit_code(error)
    word = _WORDS.get(code, "could not tell")
    print(f"FAIL: {word}: {plain(error.message)} ({error.reason.value})", file=sys.stderr)
    hint = _HINTS.get(error.reason)
    if hint is not None:
        print(f"verispect: hint: {hint}", file=sys.stderr)
    return code


def tell_verdict(result: AttestationResult) -> int:
    """Print the verdict of an appraisal and return the exit code."""
    if result.verdict is Verdict.VERIFIED:
        print(f"OK: verified under policy {result.policy_name}", file=sys.stderr)
    else:
        word = "refused" if result.verdict is Verdict.REFUSED else "could not tell"
        check = result.decisive_check()
        reason = check.reason or Reason.POLICY_UNMET
        print(f"FAIL: {word}: {check.detail} ({reason.value})", file=sys.stderr)
        if reason in _HINTS:
            print(f"verispect: hint: {_HINTS[reason]}", file=sys.stderr)
    return _OF_VERDICT[result.verdict]
