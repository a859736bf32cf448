"""`verispect keys`: make an issuer key, show it, and write the trusted root that lists it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from verispect.appraisal.attestation_trust import NO_ATTESTATION, AttestationTrust
from verispect.appraisal.trusted_root import AcceptedModel, TrustedRoot
from verispect.cli.files import to_json, write_file
from verispect.cli.places import default_home

if TYPE_CHECKING:
    from verispect.evidence.log_trust import LogTrust

_IMAGE_REGISTERS: Final = ("pcr0", "pcr1", "pcr2")
"""What an image of a Nitro enclave is measured into."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser("keys", help="make and show issuer keys")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make an issuer key")
    new.add_argument("--issuer", required=True, help="the name that trusted roots list")
    new.add_argument(
        "--development",
        action="store_true",
        help="mark the key: its receipts are refused unless a policy accepts development keys",
    )
    show = actions.add_parser("show", help="show the public key")
    root = actions.add_parser("trusted-root", help="write a trusted root that lists this key")
    root.add_argument("--out", type=Path, required=True, help="file to write (JSON)")
    root.add_argument(
        "--development-enclave",
        type=Path,
        metavar="DIR",
        help="also accept this emulated enclave, as development evidence",
    )
    root.add_argument("--registry", type=Path, help="also list the models of this registry")
    root.add_argument("--log-key", metavar="VKEY", help="also trust this log to be itself")
    root.add_argument(
        "--witness-key",
        action="append",
        default=[],
        metavar="VKEY",
        help="a witness of the log; repeatable; a majority of them must have co-signed",
    )
    root.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="a verification node; repeatable; a majority of them decides",
    )
    for action in (new, show, root):
        action.add_argument(
            "--keys", type=Path, default=default_home() / "keys", help="key directory"
        )


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from verispect.attesters.signer import Issuer

    if arguments.action == "new":
        issuer = Issuer.create(
            arguments.keys,
            name=arguments.issuer,
            development=arguments.development,
            now=time.time_ns() // 1_000_000,
        )
    else:
        issuer = Issuer.load(arguments.keys)
    if arguments.action == "trusted-root":
        root = TrustedRoot(
            [issuer.trusted_key()],
            _models(arguments.registry),
            attestation=_development_trust(arguments.development_enclave),
            log_trust=_log_trust(arguments),
        )
        write_file(arguments.out, root.to_json())
        print(f"wrote {arguments.out}: issuer {issuer.name}, {len(root.models)} models")
        return 0
    key = issuer.signer.public_key
    view = {
        "issuer": issuer.name,
        "key": key.to_text(),
        "keyId": key.key_id.hex(),
        "development": issuer.development,
        "notBefore": issuer.not_before,
    }
    print(to_json(view))
    return 0


def _development_trust(directory: Path | None) -> AttestationTrust:
    """Return trust in one emulated enclave, its anchor labelled as what it is."""
    if directory is None:
        return NO_ATTESTATION
    from verispect.attesters.development_enclave import DevelopmentEnclave

    enclave = DevelopmentEnclave.load(directory)
    anchor = enclave.anchor()
    registers = {
        name: frozenset({value})
        for name, value in enclave.registers().items()
        if name in _IMAGE_REGISTERS
    }
    return AttestationTrust(anchors=(anchor,), measurements={anchor.technology: registers})


def _log_trust(arguments: argparse.Namespace) -> LogTrust:
    """Return trust in the log, the witnesses and the nodes that were named; k is a majority."""
    from verispect.evidence.log_trust import LogTrust, majority, parse_node
    from verispect.tlog.checkpoint import TrustedLog
    from verispect.tlog.cosignature import WitnessPolicy
    from verispect.tlog.note import VerifierKey
    from verispect.tlog.status_table import NodePolicy

    log_keys = [VerifierKey.parse(arguments.log_key)] if arguments.log_key else []
    witnesses = [VerifierKey.parse(text) for text in arguments.witness_key]
    nodes = [parse_node(text) for text in arguments.node]
    return LogTrust(
        [TrustedLog(key.name, [key]) for key in log_keys],
        WitnessPolicy(majority(len(witnesses)), witnesses),
        NodePolicy(majority(len(nodes)), nodes),
    )


def _models(registry_path: Path | None) -> list[AcceptedModel]:
    if registry_path is None:
        return []
    from verispect.models.registry import ModelRegistry

    registry = ModelRegistry(registry_path)
    return [AcceptedModel(name, registry.resolve(name).model_id) for name in registry.names()]
