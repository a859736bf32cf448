"""`verispect anchor`: write a log's roots into an EVM chain, and check that they are there.

Keeps the account's key, what it means to send and the reference of the log in one directory. The
embedded development chain is used where it is named, and is called what it is in every output.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.files import read_file, to_json, write_file
from verispect.cli.outcome import EXIT_DONE, tell_failure
from verispect.cli.places import default_home
from verispect.core.errors import Error, RequestError
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog
from verispect.tlog.note import VerifierKey

if TYPE_CHECKING:
    from verispect.ledger.anchor.chain import Chain
    from verispect.ledger.anchor.check import AnchorReference
    from verispect.ledger.anchor.transactions import TransactionSender

RPC_VARIABLE: Final = "VERISPECT_ANCHOR_RPC"
REFERENCE_NAME: Final = "reference.json"
DEFAULT_CONFIRMATIONS: Final = 12

_WEI_PER_GWEI: Final = 10**9


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser("anchor", help="anchor a log's roots in an EVM chain")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    deploy = actions.add_parser("deploy", help="deploy the contract and register a log")
    deploy.add_argument("--log", required=True, metavar="VKEY", help="the log's verifier key")
    deploy.add_argument("--contract", metavar="ADDRESS", help="use this one, deployed already")
    publish = actions.add_parser("publish", help="anchor the tree of a checkpoint")
    check = actions.add_parser("check", help="check that the tree of a checkpoint is anchored")
    check.add_argument("--reference", type=Path, help="the file that deploy wrote")
    check.add_argument(
        "--accept-development", action="store_true", help="a development chain is good enough"
    )
    key = actions.add_parser("key", help="announce, revoke and show keys of the operator")
    key.add_argument("change", choices=("add", "revoke", "compromise", "show"))
    key.add_argument("--key-id", required=True, metavar="HEX", help="COSE key thumbprint")
    key.add_argument(
        "--at", type=int, metavar="SECONDS", help="the date, since 1970; now unless given"
    )
    for action in (publish, check):
        action.add_argument("--checkpoint", type=Path, required=True, help="signed by the log")
        action.add_argument("--eas", metavar="ADDRESS", help="timestamp by EAS instead")
        action.add_argument("--log", metavar="VKEY", help="the log's verifier key (with --eas)")
    for action in (deploy, publish, check, key):
        _add_chain_options(action)


def _add_chain_options(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--state", type=Path, default=default_home() / "anchor", help="directory of the operator"
    )
    action.add_argument(
        "--rpc", metavar="URL", help=f"the chain's node; else ${RPC_VARIABLE}, which nobody sees"
    )
    action.add_argument(
        "--development-chain", type=Path, metavar="DIR", help="the embedded chain, for trials only"
    )
    action.add_argument("--chain-id", type=int, help="refuse any other chain")
    action.add_argument(
        "--confirmations",
        type=int,
        help=f"blocks to wait for (default {DEFAULT_CONFIRMATIONS}; 1 on the embedded chain)",
    )
    action.add_argument("--deadline", type=float, default=600.0, metavar="SECONDS")
    action.add_argument("--fee-ceiling", type=float, metavar="GWEI", help="pay no more for gas")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    actions = {"deploy": _deploy, "publish": _publish, "check": _check, "key": _key}
    return actions[arguments.action](arguments)


# -- Actions ----------------------------------------------------------------------------------


def _deploy(arguments: argparse.Namespace) -> int:
    from verispect.ledger.anchor import publish
    from verispect.ledger.anchor.chain import checked_address

    log = VerifierKey.parse(arguments.log)
    with _sender(arguments) as sender:
        if arguments.contract is None:
            address = publish.deploy(sender)
        else:
            address = checked_address(arguments.contract)
        reference = publish.register(sender, address, origin=log.name, log_key=log.key.raw)
        path = arguments.state / REFERENCE_NAME
        write_file(path, reference.to_json())
        view = {
            **_of_chain(sender.chain),
            "contract": reference.contract,
            "logId": reference.log_id.hex(),
            "origin": reference.origin,
            "account": sender.account.address,
            "reference": str(path),
        }
        print(to_json(view))
    return EXIT_DONE


def _publish(arguments: argparse.Namespace) -> int:
    from verispect.ledger.anchor import publish

    if arguments.eas is not None:
        return _publish_eas(arguments)
    reference = _reference(arguments)
    checkpoint = _checkpoint(arguments, _log_of(reference))
    with _sender(arguments, expected_id=reference.chain_id) as sender:
        anchored = publish.publish(sender, reference, checkpoint.size, checkpoint.root)
        view = {**_of_chain(sender.chain), "root": checkpoint.root.hex(), **asdict(anchored)}
        print(to_json(_camel(view)))
    return EXIT_DONE


def _publish_eas(arguments: argparse.Namespace) -> int:
    from verispect.ledger.anchor.eas import EasTimestamps

    log = _log_option(arguments)
    checkpoint = _checkpoint(arguments, log)
    with _sender(arguments) as sender:
        eas = EasTimestamps(sender.chain, arguments.eas, origin=log.name, log_key=log.key.raw)
        found = eas.publish(sender, checkpoint.size, checkpoint.root)
        view = {**_of_chain(sender.chain), "size": found.size, "anchoredAt": found.anchored_at}
        print(to_json({**view, "digest": found.digest.hex()}))
    return EXIT_DONE


def _check(arguments: argparse.Namespace) -> int:
    try:
        view = _checked_eas(arguments) if arguments.eas is not None else _checked(arguments)
    except RequestError:
        raise
    except Error as error:
        return tell_failure(error)
    print(to_json(view))
    where = "a DEVELOPMENT chain" if view["development"] else f"chain {view['chainId']}"
    print(f"OK: anchored on {where} at size {view['size']}", file=sys.stderr)
    return EXIT_DONE


def _checked(arguments: argparse.Namespace) -> dict[str, Any]:
    from verispect.ledger.anchor.check import AnchorAuditor

    reference = _reference(arguments)
    checkpoint = _checkpoint(arguments, _log_of(reference))
    chain = _chain(arguments, expected_id=reference.chain_id)
    auditor = AnchorAuditor(
        chain,
        reference,
        confirmations=_confirmations(arguments),
        accept_development=arguments.accept_development,
    )
    report = asdict(auditor.check(checkpoint.size, checkpoint.root))
    report["root"] = checkpoint.root.hex()
    report["development"] = report.pop("is_development")
    return _camel(report)


def _checked_eas(arguments: argparse.Namespace) -> dict[str, Any]:
    from verispect.ledger.anchor.eas import EasTimestamps

    if arguments.chain_id is None:
        raise RequestError("--eas needs --chain-id", parameter="chain-id")
    log = _log_option(arguments)
    checkpoint = _checkpoint(arguments, log)
    chain = _chain(arguments)
    eas = EasTimestamps(chain, arguments.eas, origin=log.name, log_key=log.key.raw)
    found = eas.check(
        checkpoint.size,
        checkpoint.root,
        confirmations=_confirmations(arguments),
        accept_development=arguments.accept_development,
    )
    return {
        **_of_chain(chain),
        "eas": arguments.eas,
        "size": found.size,
        "root": found.root.hex(),
        "digest": found.digest.hex(),
        "anchoredAt": found.anchored_at,
    }


def _key(arguments: argparse.Namespace) -> int:
    from verispect.core.encoding import from_hex
    from verispect.ledger.anchor import contract as calls
    from verispect.ledger.anchor import publish
    from verispect.ledger.anchor.contract import AnchorContract

    if arguments.change == "compromise" and arguments.at is None:
        raise RequestError("say from when others could sign: --at", parameter="at")
    reference = _reference(arguments)
    key_id = from_hex(arguments.key_id, length=32)
    log_id = reference.log_id
    if arguments.change == "show":
        chain = _chain(arguments, expected_id=reference.chain_id)
    else:
        encode = {
            "add": calls.add_key,
            "revoke": calls.revoke_key,
            "compromise": calls.compromise_key,
        }[arguments.change]
        with _sender(arguments, expected_id=reference.chain_id) as sender:
            # To the contract 0 is now, whenever that comes: asked for twice it is one change.
            at = 0 if arguments.at is None else arguments.at
            name = f"{arguments.change}-key {key_id.hex()} {at}"
            publish.change(sender, reference, name, encode(log_id, key_id, at))
            chain = sender.chain
    key = AnchorContract(chain, reference.contract).operator_key(log_id, key_id)
    dates = {"known": key is not None} if key is None else {"known": True, **asdict(key)}
    print(to_json(_camel({**_of_chain(chain), "key_id": key_id.hex(), **dates})))
    return EXIT_DONE


# -- What the actions share -------------------------------------------------------------------


def _chain(arguments: argparse.Namespace, *, expected_id: int | None = None) -> Chain:
    from verispect.ledger.anchor.chain import Chain

    url = arguments.rpc or os.environ.get(RPC_VARIABLE)
    if arguments.development_chain is not None:
        if arguments.rpc is not None:
            raise RequestError("--rpc and --development-chain exclude each other", parameter="rpc")
        return Chain.development(arguments.development_chain)
    if not url:
        raise RequestError(
            f"name a chain: --rpc, ${RPC_VARIABLE} or --development-chain", parameter="rpc"
        )
    return Chain.connect(url, expected_id=arguments.chain_id or expected_id)


@contextlib.contextmanager
def _sender(
    arguments: argparse.Namespace, *, expected_id: int | None = None
) -> Iterator[TransactionSender]:
    from verispect.ledger.anchor.account import KEY_FILE_NAME, ChainAccount
    from verispect.ledger.anchor.intents import IntentStore
    from verispect.ledger.anchor.transactions import Patience, TransactionSender

    chain = _chain(arguments, expected_id=expected_id)
    path = arguments.state / KEY_FILE_NAME
    account = ChainAccount.load(path) if path.exists() else ChainAccount.create(path)
    if arguments.development_chain is not None and chain.balance(account.address) == 0:
        chain.fund_for_development(account.address)
    ceiling = arguments.fee_ceiling
    patience = Patience(
        confirmations=_confirmations(arguments),
        deadline_seconds=arguments.deadline,
        fee_ceiling=None if ceiling is None else int(ceiling * _WEI_PER_GWEI),
    )
    store = IntentStore(arguments.state, chain_id=chain.chain_id, account=account.address)
    with contextlib.closing(store):
        yield TransactionSender(chain, account, store, patience=patience)


def _confirmations(arguments: argparse.Namespace) -> int:
    if arguments.confirmations is not None:
        return int(arguments.confirmations)
    return 1 if arguments.development_chain is not None else DEFAULT_CONFIRMATIONS


def _reference(arguments: argparse.Namespace) -> AnchorReference:
    from verispect.ledger.anchor.check import AnchorReference

    path = getattr(arguments, "reference", None) or arguments.state / REFERENCE_NAME
    return AnchorReference.from_json(read_file(path))


def _log_of(reference: AnchorReference) -> VerifierKey:
    from verispect.core.keys import PublicKey

    return VerifierKey(reference.origin, PublicKey(reference.log_key))


def _log_option(arguments: argparse.Namespace) -> VerifierKey:
    if arguments.log is None:
        raise RequestError("--eas needs --log", parameter="log")
    return VerifierKey.parse(arguments.log)


def _checkpoint(arguments: argparse.Namespace, log: VerifierKey) -> Checkpoint:
    """Return the checkpoint in the file, once the log's signature on it holds."""
    signed = SignedCheckpoint.parse(read_file(arguments.checkpoint))
    return TrustedLog(log.name, (log,)).verify(signed)


def _of_chain(chain: Chain) -> dict[str, Any]:
    return {"chainId": chain.chain_id, "development": chain.is_development}


def _camel(view: dict[str, Any]) -> dict[str, Any]:
    def name(text: str) -> str:
        first, *rest = text.split("_")
        return first + "".join(word.capitalize() for word in rest)

    return {name(key): value for key, value in view.items()}
