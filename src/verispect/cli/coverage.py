"""`verispect coverage`: what the receipts of a log achieved, counted from its leaves by the reader.

With `--check` every coverage leaf that a trusted issuer signed is counted again and compared. The
nodes are those of the trusted root: whoever lists other nodes than the operator gets other figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.cli.files import read_trusted_root, to_json
from verispect.cli.leaves import LogView, add_log_arguments, open_log
from verispect.cli.outcome import EXIT_DONE, EXIT_REFUSED, plain
from verispect.core.claims import Claim
from verispect.core.errors import Error, RequestError
from verispect.ledger.coverage import CoverageCounter
from verispect.ledger.coverage_figures import Figures, differences
from verispect.ledger.coverage_state import (
    CountedTree,
    ResumableCounter,
    load_count,
    save_count,
)
from verispect.tlog.leaf import SignedLeaf, decode_leaf
from verispect.tlog.publications import Coverage

_BAR: Final = 32


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "coverage", help="what the receipts of a log achieved, by claim, source, policy and model"
    )
    add_log_arguments(parser)
    parser.add_argument(
        "--check", action="store_true", help="compare the operator's own figures with the count"
    )
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="go on from the count in this file, and keep it"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    root = read_trusted_root(arguments.trusted_root)
    if arguments.state is not None and arguments.check:
        raise RequestError("--check counts from the first leaf, without --state", parameter="state")
    published: list[Coverage] = []
    kept: list[bytes] = []
    with open_log(arguments, root) as log:
        if arguments.state is not None:
            counter: CoverageCounter = _go_on(arguments.state, log, root)
        else:
            counter = CoverageCounter(root.log_trust.nodes, leaves=lambda: log.leaves(0))
            leaves: Iterable[bytes] = log.leaves(0)
            if arguments.check:
                leaves = kept = list(leaves)
                published = _published(kept, root)
            counter.replay(leaves)
    figures = counter.figures()
    found = _check(published, kept, root) if arguments.check else []
    if arguments.json:
        print(to_json({**_document(figures), "published": len(published), "differences": found}))
    else:
        _print(figures)
    sys.stdout.flush()
    for line in found:
        print(f"FAIL: {plain(line)}", file=sys.stderr)
    if found:
        return EXIT_REFUSED
    if arguments.check:
        print(f"OK: {len(published)} published figures are what was counted", file=sys.stderr)
    return EXIT_DONE


def _go_on(path: Path, log: LogView, root: TrustedRoot) -> ResumableCounter:
    """Count what was not counted yet, and keep the count."""
    nodes = root.log_trust.nodes
    counter = load_count(
        path,
        nodes,
        log=log.origin,
        size=log.size,
        root=log.root,
        leaves=lambda: log.leaves(0),
    )
    if counter.size < log.size:
        counter.replay(log.leaves(counter.size))
        save_count(path, counter, CountedTree(log.origin, log.size, log.root(log.size)), nodes)
    return counter


def _published(leaves: list[bytes], root: TrustedRoot) -> list[Coverage]:
    """Return the coverage that trusted issuers signed."""
    found = []
    for data in leaves:
        try:
            leaf = decode_leaf(data)
            if isinstance(leaf, SignedLeaf) and isinstance(leaf.payload, Coverage):
                key = root.issuer_key(leaf.envelope.key_id)
                if key is not None:
                    leaf.envelope.verify(key.key)
                    found.append(leaf.payload)
        except Error:
            continue
    return found


def _check(published: list[Coverage], leaves: list[bytes], root: TrustedRoot) -> list[str]:
    found = []
    for each in published:
        if each.end_leaf > len(leaves):
            found.append(f"leaves {each.first_leaf} to {each.end_leaf}: not all are in the log")
            continue
        counter = CoverageCounter(root.log_trust.nodes, leaves=lambda: iter(leaves))
        counter.replay(leaves[: each.first_leaf])
        counter.begin()
        counter.replay(leaves[each.first_leaf : each.end_leaf])
        own = counter.figures().publication(each.published_at)
        where = f"leaves {each.first_leaf} to {each.end_leaf}"
        found += [f"{where}: {line}" for line in differences(own, each)]
    return found


def _document(figures: Figures) -> dict[str, Any]:
    from verispect.core.encoding import decode_content

    document: dict[str, Any] = decode_content(figures.report())
    return document


def _print(figures: Figures) -> None:
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(figures.outcomes.items()))
    print(f"leaves {figures.first_leaf} to {figures.end_leaf}: {outcomes or 'no receipt'}\n")
    total = max((each.inferences for each in figures.claims.values()), default=0)
    for claim in Claim:
        for (of, source), amounts in sorted(figures.claims.items()):
            if of is claim and total:
                bar = "#" * max(1, round(_BAR * amounts.inferences / total))
                print(f"  {claim.value:<16} {source.value:<12} {amounts.inferences:>10}  {bar}")
    for name, counts in (("failed", figures.failures), ("refused", figures.refusals)):
        for reason, count in sorted(counts.items()):
            print(f"  {name:<16} {plain(reason):<24} {count}")
    for row in _document(figures)["unmet"]:
        word = row["preset"] or (row["digest"] or "no known policy")[:16]
        missed = sum(row["failures"].values()), sum(row["refusals"].values())
        print(f"  required         {word:<24} {missed[0]} failed, {missed[1]} refused")
