"""`verispect serve`: run the gateway."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.outcome import EXIT_COULD_NOT_TELL, EXIT_DONE
from verispect.cli.places import default_home
from verispect.core.errors import Reason, RequestError, StoreError

if TYPE_CHECKING:
    from verispect.gateway.service import ServiceConfiguration
    from verispect.ledger.log.operation import LogOperation

_DEFAULT_PORT: Final = 8402
_BACKLOG: Final = 2048


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser("serve", help="run the gateway")
    home = default_home()
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=_DEFAULT_PORT, help="0 takes a free one")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port")
    parser.add_argument("--keys", type=Path, default=home / "keys", help="key directory")
    parser.add_argument("--state", type=Path, default=home / "state", help="receipts and openings")
    parser.add_argument("--registry", type=Path, default=home / "models", help="model registry")
    parser.add_argument(
        "--model", action="append", metavar="NAME", help="serve only this model; repeatable"
    )
    parser.add_argument(
        "--openings-hours", type=int, default=24, help="how long openings can be fetched"
    )
    parser.add_argument(
        "--proof-seconds", type=int, default=600, help="when a promised proof is due"
    )
    parser.add_argument(
        "--share-succinct-proofs",
        action="store_true",
        help="let requests of different callers share proofs in mode succinct too, which show "
        "them to each other; in mode zero-knowledge they always share",
    )
    parser.add_argument("--threads", type=int, help="threads of the language engine")
    parser.add_argument(
        "--attester",
        metavar="CHOICE",
        help="vouch for the signing key: nitro, tdx, sev-snp, tpm:TCTI, software-tpm:TCTI or "
        "development:DIR",
    )
    parser.add_argument(
        "--own-trusted-root",
        type=Path,
        metavar="FILE",
        help="what attestation this operator trusts when it judges its own transactions (JSON)",
    )
    parser.add_argument("--log", type=Path, metavar="DIR", help="keep a public log in this folder")
    parser.add_argument(
        "--log-keys", type=Path, default=home / "log-keys", help="key directory of the log"
    )
    parser.add_argument(
        "--log-disclose",
        action="append",
        default=[],
        choices=("model", "usage", "charge"),
        help="show this of every receipt in the public log; repeatable; nothing unless given",
    )
    parser.add_argument(
        "--witness",
        action="append",
        default=[],
        metavar="URL=VKEY",
        help="a witness of the log; repeatable; a majority of them must co-sign",
    )
    parser.add_argument(
        "--auditor",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="a verification node that may submit verdicts and read openings; repeatable",
    )
    _add_payment_options(parser)
    parser.add_argument(
        "--upstream-key",
        action="append",
        default=[],
        metavar="NAME=VARIABLE",
        help="environment variable that holds the API key of a remote model",
    )


def _add_payment_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--payments",
        choices=("off", "dev", "facilitator", "rpc"),
        default="off",
        help="have each inference paid for (x402): with worthless money of a chain in this "
        "process, through somebody else's facilitator, or by an account of yours through a node",
    )
    parser.add_argument("--prices", type=Path, metavar="FILE", help="the price sheet (TOML)")
    parser.add_argument("--pay-to", metavar="ADDRESS", help="the address that is paid")
    parser.add_argument("--rpc", metavar="URL", help="a node of the chain")
    parser.add_argument("--facilitator", metavar="URL", help="the facilitator's address")
    parser.add_argument(
        "--payment-key",
        type=Path,
        metavar="FILE",
        help="key of the account that pays for gas and authorises claims of channels",
    )
    parser.add_argument(
        "--public-url", metavar="URL", help="the address under which clients ask this server"
    )
    parser.add_argument(
        "--sweep-seconds",
        type=int,
        default=3600,
        help="how often what payment channels owe is claimed on the chain",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    import logging

    import uvicorn

    from verispect.evidence.attestation import EvidenceClass
    from verispect.gateway.connection import make_protocol
    from verispect.gateway.limits import Limits
    from verispect.gateway.payment_service import paid_limits
    from verispect.gateway.service import (
        CONFIGURATION_VARIABLE,
        Service,
        ServiceConfiguration,
        prepare_process,
    )

    _check_numbers(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    configuration = ServiceConfiguration(
        keys=str(arguments.keys),
        state=str(arguments.state),
        registry=str(arguments.registry),
        models=arguments.model,
        openings_retention_seconds=arguments.openings_hours * 3600,
        llama_threads=arguments.threads,
        upstream_key_variables=_pairs(arguments.upstream_key),
        attester=arguments.attester,
        log=_log(arguments),
        proof_seconds=arguments.proof_seconds,
        share_succinct_proofs=arguments.share_succinct_proofs,
        payments=_payments(arguments),
        own_trusted_root=None
        if arguments.own_trusted_root is None
        else str(arguments.own_trusted_root),
    )
    limits = Limits() if configuration.payments is None else paid_limits(Limits())
    listener = _listen(arguments.host, arguments.port)
    host, port = listener.getsockname()[:2]
    options: dict[str, Any] = {
        "log_level": "warning",
        "access_log": False,
        # Nothing here believes, or asks, who a proxy says the caller is.
        "proxy_headers": False,
        "server_header": False,
        "loop": "uvloop",
        "http": make_protocol(limits),
        "timeout_keep_alive": 30,
        # A caller that reads no further must not keep the server from stopping.
        "timeout_graceful_shutdown": 15,
    }
    # Made here in any case: what is missing, changed or locked is told once, and by us.
    service = Service(configuration)
    names = service.state.pool.names()
    if not names:
        raise RequestError(
            f"no model is registered in {arguments.registry}: see verispect models add",
            parameter="registry",
        )
    print(f"verispect: serving {', '.join(names)}", file=sys.stderr)
    if (attestation := service.recorder.attestation) is not None:
        # On every start, in capitals where it is not hardware: nobody takes one for the other.
        word = attestation.evidence_class.value
        word = word if attestation.evidence_class is EvidenceClass.HARDWARE else word.upper()
        print(f"verispect: attesting the signing key, evidence class {word}", file=sys.stderr)
    if service.state.payments is not None:
        dear = "PAID IN DEVELOPMENT MONEY, WHICH IS WORTH NOTHING"
        word = dear if service.state.payments.is_development else "paid for by x402"
        print(f"verispect: inferences are {word}", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"verispect: listening on http://{shown}:{port}", flush=True)
    if arguments.workers > 1:
        from uvicorn.supervisors import Multiprocess

        asyncio.run(service.close())
        os.environ[CONFIGURATION_VARIABLE] = configuration.to_json()
        config = uvicorn.Config(
            "verispect.gateway.service:create_from_environment",
            factory=True,
            workers=arguments.workers,
            **options,
        )
        operation = _operate_log(configuration)
        Multiprocess(config, sockets=[listener]).run()
        if operation is not None:
            operation.stop()
        return EXIT_DONE
    prepare_process()
    operation = _operate_log(configuration)
    server = uvicorn.Server(uvicorn.Config(service.application(), **options))
    server.run(sockets=[listener])
    if operation is not None:
        operation.stop()
    return EXIT_DONE if server.started else EXIT_COULD_NOT_TELL


def _payments(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return what the operator decided about payments, as the service gets it."""
    if arguments.payments == "off":
        given = (arguments.prices, arguments.pay_to, arguments.facilitator, arguments.payment_key)
        if any(each is not None for each in given):
            raise RequestError("prices and payees need --payments", parameter="payments")
        return None
    if arguments.prices is None:
        raise RequestError("--payments needs --prices", parameter="prices")
    if arguments.workers != 1:
        raise RequestError("payments are taken by one process: --workers 1", parameter="workers")
    return {
        "mode": arguments.payments,
        "prices": str(arguments.prices),
        "pay_to": arguments.pay_to,
        "rpc": arguments.rpc,
        "facilitator": arguments.facilitator,
        "key": None if arguments.payment_key is None else str(arguments.payment_key),
        "base": None if arguments.public_url is None else arguments.public_url.rstrip("/"),
        "sweep_seconds": arguments.sweep_seconds,
        "retention_seconds": arguments.openings_hours * 3600,
    }


def _log(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return what the operator decided about the log, as worker processes get it."""
    if arguments.log is None:
        if arguments.witness or arguments.auditor:
            raise RequestError("--witness and --auditor need --log", parameter="log")
        return None
    return {
        "folder": str(arguments.log),
        "keys": str(arguments.log_keys),
        "witnesses": arguments.witness,
        "auditors": arguments.auditor,
        "disclose": arguments.log_disclose,
    }


def _operate_log(configuration: ServiceConfiguration) -> LogOperation | None:
    """Start the one appender of this machine, beside the process or processes that serve."""
    if configuration.log is None:
        return None
    from verispect.attesters.signer import Issuer
    from verispect.gateway.log_service import LogConfiguration, operate_log

    issuer = Issuer.load(Path(configuration.keys))
    return operate_log(LogConfiguration(**configuration.log), issuer, Path(configuration.state))


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name, lowest in (
        ("workers", 1),
        ("threads", 1),
        ("proof_seconds", 1),
        ("sweep_seconds", 1),
        ("openings_hours", 0),
    ):
        value = getattr(arguments, name)
        if value is not None and value < lowest:
            option = name.replace("_", "-")
            raise RequestError(f"--{option} must be at least {lowest}", parameter=option)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Named, or asyncio takes its connections for none of TCP and lets them wait to send.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        # Two who may share an address can both bind it; only one can listen.
        listener.listen(_BACKLOG)
        listener.set_inheritable(True)
    except (OSError, OverflowError, UnicodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not an address"
        raise StoreError(
            f"cannot listen on {host} port {port}: {what}", reason=Reason.NETWORK_FAILED
        ) from error
    return listener


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, variable = text.partition("=")
        if not separator or not name or not variable:
            raise RequestError("expected --upstream-key NAME=VARIABLE")
        if variable not in os.environ:
            raise RequestError(f"the environment variable {variable} is not set")
        pairs[name] = variable
    return pairs
