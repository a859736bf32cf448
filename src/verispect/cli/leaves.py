"""The verified leaves of a log, for subcommands that read all of it, from a folder or operator."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.encoding import Digest


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe where the log is and what is trusted."""
    parser.add_argument(
        "--trusted-root", type=Path, required=True, help="lists issuers, the log, the nodes"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--log", type=Path, metavar="DIR", help="a log's folder on this machine")
    place.add_argument("--operator", metavar="URL", help="fetch and verify the log from there")
    parser.add_argument(
        "--mirror", type=Path, help="with --operator, keep what was verified in this folder"
    )


@dataclass(frozen=True, slots=True)
class LogView:
    """A log as it stood when it was opened."""

    origin: str
    size: int
    leaves: Callable[[int], Iterator[bytes]]
    """The leaves from an index on."""
    root: Callable[[int], Digest]
    """The root of the first so many leaves."""


@contextmanager
def open_log(arguments: argparse.Namespace, root: TrustedRoot) -> Iterator[LogView]:
    """Give a log; an operator's only after its leaves led to the root that it signed.

    Raises:
        StoreError, NetworkError, VerificationError: as `Mirror.follow`.
    """
    with ExitStack() as stack:
        if arguments.log is not None:
            yield _folder_view(arguments.log)
            return
        from verispect.node.mirror import Mirror
        from verispect.node.operator_client import HttpSource, make_client
        from verispect.node.state import NodeState
        from verispect.node.verification import only_log

        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client = stack.enter_context(make_client())
        folder = arguments.mirror or temporary
        state = NodeState(folder)
        stack.callback(state.close)
        mirror = Mirror(folder / "mirror", state, only_log(root))
        mirror.follow(HttpSource(arguments.operator, client))
        yield LogView(mirror.log.origin, mirror.size, mirror.leaves, mirror.root)


@contextmanager
def log_leaves(arguments: argparse.Namespace, root: TrustedRoot) -> Iterator[Iterator[bytes]]:
    """Give all leaves of a log.

    Raises:
        StoreError, NetworkError, VerificationError: as `open_log`.
    """
    with open_log(arguments, root) as log:
        yield log.leaves(0)


def _folder_view(path: Path) -> LogView:
    from verispect.ledger.log.embedded import LogFolder
    from verispect.ledger.log.reading import TileReader
    from verispect.tlog.tiles import TILE_WIDTH, tile_at

    folder = LogFolder(path)
    state = folder.open_state()
    size = state.head().size
    state.close()
    reader = TileReader(folder.tiles)

    def leaves(start: int) -> Iterator[bytes]:
        for index in range(start // TILE_WIDTH, -(-size // TILE_WIDTH)):
            entries = reader.entries(tile_at(0, index, size))
            yield from entries[max(0, start - index * TILE_WIDTH) :]

    return LogView(folder.origin, size, leaves, lambda until: reader.root(until, size))
