"""`verispect plumbing fetch-endorsements`: ask a vendor for what verifies one piece of evidence.

Reaches the vendor's service, or the one that the user names, and writes what it says to files that
`verispect appraise --endorsements` reads. Nothing of it is judged here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from verispect.cli.files import read_file, write_file
from verispect.core.errors import RequestError

if TYPE_CHECKING:
    from verispect.attesters.endorsements.interface import EndorsementFetcher
    from verispect.attesters.endorsements.retrieval import Retriever

NAME: Final = "fetch-endorsements"

_MAIN_FILES: Final[Mapping[str, str]] = {
    "sev-snp": "report",
    "tdx": "quote",
    "sgx": "quote",
    "nvidia-gpu": "evidence",
    "nras": "token",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        NAME,
        help="ask a vendor for certificates, collateral, lists or manifests",
        description="Ask a vendor for what verifies one piece of evidence, and write it to files. "
        "Prints one JSON line: file names by the names that appraise knows them by.",
    )
    parser.add_argument("file", type=Path, help="the evidence")
    parser.add_argument("--kind", required=True, choices=tuple(_MAIN_FILES))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--with",
        dest="beside",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="more of the evidence, such as cert=FILE or chain=FILE",
    )
    parser.add_argument("--base-url", metavar="URL", help="a mirror of the vendor's service")
    parser.add_argument("--ocsp-url", metavar="URL", help="another responder (nvidia-gpu)")
    parser.add_argument("--pccs", action="store_true", help="the mirror is a PCCS (tdx, sgx)")
    parser.add_argument(
        "--no-revocation", action="store_true", help="no revocation (sev-snp, nvidia-gpu)"
    )
    parser.add_argument(
        "--tls-roots", type=Path, metavar="FILE", help="roots for TLS to the service (PEM)"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep answers here")


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    _check_options(arguments)
    evidence = {_main_name(arguments): read_file(arguments.file)}
    for given in arguments.beside:
        name, _, path = given.partition("=")
        if not name or not path:
            raise RequestError("--with takes NAME=FILE", parameter="with")
        evidence[name] = read_file(Path(path))
    files = asyncio.run(_fetch(arguments, evidence))
    written = {}
    for name, data in sorted(files.items()):
        path = arguments.out / name
        write_file(path, data)
        written[name] = str(path)
    print(json.dumps(written))
    return 0


def _main_name(arguments: argparse.Namespace) -> str:
    if arguments.kind == "nvidia-gpu" and any(g.startswith("chain=") for g in arguments.beside):
        return "report"
    return _MAIN_FILES[arguments.kind]


def _check_options(arguments: argparse.Namespace) -> None:
    for option, given, kinds in (
        ("--pccs", arguments.pccs, ("tdx", "sgx")),
        ("--ocsp-url", arguments.ocsp_url is not None, ("nvidia-gpu",)),
        ("--no-revocation", arguments.no_revocation, ("sev-snp", "nvidia-gpu")),
    ):
        if given and arguments.kind not in kinds:
            raise RequestError(
                f"{option} does not go with --kind {arguments.kind}", parameter=option.strip("-")
            )
    if arguments.pccs and arguments.base_url is None:
        raise RequestError("--pccs needs --base-url", parameter="pccs")


async def _fetch(
    arguments: argparse.Namespace, evidence: Mapping[str, bytes]
) -> Mapping[str, bytes]:
    from verispect.attesters.endorsements.cache import EndorsementCache
    from verispect.attesters.endorsements.retrieval import Retriever

    cache = EndorsementCache(arguments.cache) if arguments.cache is not None else None
    async with Retriever(cache, certificates=arguments.tls_roots) as retriever:
        return await _FETCHERS[arguments.kind](arguments, retriever).fetch(evidence)


def _amd(arguments: argparse.Namespace, retriever: Retriever) -> EndorsementFetcher:
    from verispect.attesters.endorsements.amd_kds import AMD_KDS_URL, AmdKdsFetcher

    return AmdKdsFetcher(
        retriever, arguments.base_url or AMD_KDS_URL, revocation=not arguments.no_revocation
    )


def _intel(arguments: argparse.Namespace, retriever: Retriever) -> EndorsementFetcher:
    from verispect.attesters.endorsements.intel_pcs import INTEL_PCS_URL, IntelPcsFetcher

    technology = f"intel-{arguments.kind}"
    if arguments.pccs:
        return IntelPcsFetcher.of_pccs(retriever, technology, arguments.base_url)
    return IntelPcsFetcher(retriever, technology, arguments.base_url or INTEL_PCS_URL)


def _nvidia(arguments: argparse.Namespace, retriever: Retriever) -> EndorsementFetcher:
    from verispect.attesters.endorsements.nvidia import (
        NVIDIA_OCSP_URL,
        NVIDIA_RIM_URL,
        NvidiaGpuFetcher,
    )

    return NvidiaGpuFetcher(
        retriever,
        arguments.base_url or NVIDIA_RIM_URL,
        arguments.ocsp_url or NVIDIA_OCSP_URL,
        revocation=not arguments.no_revocation,
    )


def _nras(arguments: argparse.Namespace, retriever: Retriever) -> EndorsementFetcher:
    from verispect.attesters.endorsements.nvidia_nras import NVIDIA_NRAS_URL, NvidiaNrasFetcher

    return NvidiaNrasFetcher(retriever, arguments.base_url or NVIDIA_NRAS_URL)


_FETCHERS: Final[Mapping[str, Callable[[argparse.Namespace, Retriever], EndorsementFetcher]]] = {
    "sev-snp": _amd,
    "tdx": _intel,
    "sgx": _intel,
    "nvidia-gpu": _nvidia,
    "nras": _nras,
}
