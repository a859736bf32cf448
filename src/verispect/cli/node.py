"""`verispect node`: run a verification node, do one round of its work, make its key."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from verispect.cli.files import read_trusted_root, to_json
from verispect.cli.outcome import EXIT_DONE, EXIT_REFUSED, plain
from verispect.cli.places import default_home

if TYPE_CHECKING:
    from verispect.attesters.signer import Issuer
    from verispect.node.verification import VerificationNode

_ROUND_SECONDS: Final = 1.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser("node", help="run a verification node")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser("serve", help="follow a log, and co-sign its checkpoints")
    once = actions.add_parser("once", help="do one round: follow, judge, deliver, compare")
    keys = actions.add_parser("keys", help="make the node's key where there is none, and show it")
    home = default_home()
    for action in (serve, once, keys):
        action.add_argument(
            "--state", type=Path, default=home / "node", help="the node's folder, key included"
        )
    keys.add_argument("--name", required=True, help="the name under which it signs verdicts")
    keys.add_argument("--development", action="store_true", help="mark the key as such")
    for action in (serve, once):
        action.add_argument("--operator", required=True, metavar="URL", help="whose log to follow")
        action.add_argument(
            "--trusted-root", type=Path, required=True, help="issuers, the log, witnesses, nodes"
        )
        action.add_argument(
            "--rate",
            default="0",
            help="share of receipts to run again, from 0 to 1; those that promise verdicts always",
        )
        action.add_argument("--peer", action="append", default=[], metavar="URL", help="a peer")
        action.add_argument("--registry", type=Path, help="the node's own models")
        action.add_argument("--threads", type=int, default=1, help="threads of the engines")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=0, help="0 takes a free one")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    if arguments.action == "keys":
        return _keys(arguments)
    node = _node(arguments)
    if arguments.action == "once":
        return asyncio.run(_once(node))
    return asyncio.run(_serve(node, arguments.host, arguments.port))


def _keys(arguments: argparse.Namespace) -> int:
    from verispect.attesters.signer import KEY_FILE, Issuer
    from verispect.tlog.cosignature import witness_key

    directory = arguments.state / "keys"
    if (directory / KEY_FILE).exists():
        identity = Issuer.load(directory)
    else:
        identity = Issuer.create(
            directory,
            name=arguments.name,
            development=arguments.development,
            now=time.time_ns() // 1_000_000,
        )
    key = identity.signer.public_key.to_text()
    view = {
        "name": identity.name,
        "key": key,
        "auditor": f"{identity.name}={key}",
        "witnessKey": witness_key(identity.name, identity.signer).encode(),
    }
    print(to_json(view))
    return EXIT_DONE


def _identity(folder: Path) -> Issuer:
    from verispect.attesters.signer import Issuer

    return Issuer.load(folder / "keys")


def _node(arguments: argparse.Namespace) -> VerificationNode:
    import logging

    from verispect.models.registry import ModelRegistry
    from verispect.node.reexecution import Reexecutor
    from verispect.node.sampling import parse_rate
    from verispect.node.verification import NodeSettings, VerificationNode

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    settings = NodeSettings(
        folder=arguments.state,
        operator=arguments.operator,
        root=read_trusted_root(arguments.trusted_root),
        rate=parse_rate(arguments.rate),
        peers=arguments.peer,
    )
    reexecutor = None
    if arguments.registry is not None:
        reexecutor = Reexecutor(ModelRegistry(arguments.registry), threads=arguments.threads)
    return VerificationNode(settings, _identity(arguments.state), reexecutor=reexecutor)


async def _once(node: VerificationNode) -> int:
    try:
        judged = await node.round()
        table = node.table()
        print(
            to_json(
                {
                    "size": table.size,
                    "judged": judged,
                    "undelivered": node.state.undelivered(),
                    "forks": len(node.state.forks()),
                    "contradicted": len(table.contradicted),
                    "statusDigest": table.digest().hex(),
                }
            )
        )
        if node.state.forks():
            print(f"FAIL: {plain(node.mirror.log.origin)} forked (log-forked)", file=sys.stderr)
            return EXIT_REFUSED
        if table.contradicted:
            reason = table.contradicted[0].reason
            print(f"FAIL: a transaction was given two ends ({reason})", file=sys.stderr)
            return EXIT_REFUSED
        return EXIT_DONE
    finally:
        await node.close()


async def _serve(node: VerificationNode, host: str, port: int) -> int:
    import uvicorn

    from verispect.cli.serve import _listen

    listener = _listen(host, port)
    address = listener.getsockname()
    print(f"verispect: node listening on http://{address[0]}:{address[1]}", flush=True)
    config = uvicorn.Config(node.app, log_level="warning", access_log=False, server_header=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    # Rounds run on a thread with an event loop of its own: a witness answers while it judges.
    working = asyncio.create_task(asyncio.to_thread(_rounds, node, serving))
    await serving
    await working
    return EXIT_DONE


def _rounds(node: VerificationNode, serving: asyncio.Task[None]) -> None:
    async def work() -> None:
        while not serving.done():
            try:
                judged = await node.round()
            except Exception:  # A node never ends because of what it was given.
                import logging

                logging.getLogger(__name__).exception("a round failed")
                judged = 0
            if not judged:
                await asyncio.sleep(_ROUND_SECONDS)
        await node.close()

    asyncio.run(work())
