"""`verispect attest`: show what this machine attests, without judging it.

The evidence printed is untrusted like any other; `verispect appraise` judges it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from verispect.cli.files import to_json, write_file
from verispect.cli.places import default_home
from verispect.core.encoding import decode, from_hex, sha256, to_base64url
from verispect.core.errors import Error, MalformedError, Reason

_WIDTH = 64


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "attest",
        help="show this machine's attestation evidence",
        description="Show this machine's attestation evidence, unverified.",
    )
    parser.add_argument(
        "--attester",
        required=True,
        metavar="CHOICE",
        help="nitro, tdx, sev-snp, tpm:TCTI, software-tpm:TCTI or development:DIR",
    )
    parser.add_argument("--nonce", help="the nonce to attest (hexadecimal)")
    parser.add_argument("--report-data", help="the 64 bytes to attest (hexadecimal)")
    parser.add_argument("--state", type=Path, default=default_home() / "state", help="key state")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write the files here")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from verispect.attesters.choice import make_attester

    nonce = None if arguments.nonce is None else _hexadecimal(arguments.nonce, "--nonce")
    if arguments.report_data is not None:
        field = _hexadecimal(arguments.report_data, "--report-data")
    else:
        # Guests with one field for both carry the nonce in a hash that fills it.
        field = sha256(nonce or b"") * 2
    attester, evidence_class = make_attester(arguments.attester, arguments.state)
    evidence = attester.attest(field.ljust(_WIDTH, b"\x00"), nonce)
    files = decode(evidence.endorsements) if evidence.endorsements else {}
    print("unverified: this is what the machine says", file=sys.stderr)
    view = {
        "technology": attester.technology,
        "class": evidence_class.value,
        "reportData": field.hex(),
        "nonce": None if nonce is None else nonce.hex(),
        "evidence": to_base64url(evidence.body),
        "endorsements": {name: to_base64url(content) for name, content in files.items()},
    }
    print(to_json(view))
    if arguments.out is not None:
        write_file(arguments.out / "evidence.bin", evidence.body)
        for name, content in files.items():
            write_file(arguments.out / f"{name}.bin", content)
    return 0


def _hexadecimal(text: str, name: str) -> bytes:
    try:
        return from_hex(text.lower())
    except Error as error:
        raise MalformedError(f"{name} is not hexadecimal", reason=Reason.INVALID_REQUEST) from error
