"""A small world for tests of the node: an operator that serves a log over HTTP, and may lie."""

from __future__ import annotations

import http.server
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from log_leaves import NODES
from tlog_log import SIGNER, TRUSTED, MemoryLog, policy
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.core.receipt import InferenceReceipt
from verispect.evidence.interface import IssuerKey
from verispect.evidence.log_trust import LogTrust
from verispect.node.verification import NodeSettings, VerificationNode
from verispect.tlog.checkpoint import Checkpoint, sign_checkpoint
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.status_table import NodePolicy, TrustedNode

sys.path.insert(0, str(Path(__file__).parents[1] / "vectors"))

import material


class Operator:
    """Serves what `files` says, takes what is posted to `/log/entries`, and counts requests."""

    def __init__(self, log: MemoryLog | None = None) -> None:
        self.log = log or MemoryLog()
        self.files: dict[str, bytes | int] = {}
        self.posted: list[bytes] = []
        self.post_status = 202
        self.publish()
        operator = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = operator.files.get(self.path.partition("?")[0], 404)
                self._answer(found)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                if self.path in operator.files:
                    self._answer(operator.files[self.path])
                    return
                if operator.post_status == 202:
                    operator.posted.append(body)
                self._answer(operator.post_status)

            def _answer(self, found: bytes | int) -> None:
                data = b"{}" if isinstance(found, int) else found
                self.send_response(found if isinstance(found, int) else 200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def publish(self) -> None:
        """Serve the log as it is now."""
        self.files |= {f"/log/{path}": data for path, data in self.log.resources.items()}
        checkpoint = Checkpoint(TRUSTED.origin, self.log.size, self.log.root)
        self.files["/log/checkpoint"] = sign_checkpoint(checkpoint, signer=SIGNER).encode()

    def append(self, *leaves: bytes) -> None:
        self.log.append(leaves)
        self.publish()

    def issue(self, **fields: object) -> InferenceReceipt:
        """Put a receipt into the log and serve it."""
        receipt = InferenceReceipt.parse(material.receipt(**fields))
        self.files[f"/log/receipts/{receipt.receipt_id.hex()}"] = receipt.encode()
        self.append(ReceiptLeaf.of(receipt).encode())
        return receipt

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class Clock:
    """A clock that tests move."""

    def __init__(self, now: int = material.NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def trusted_root(node: Issuer | None = None) -> TrustedRoot:
    nodes = [] if node is None else [TrustedNode(node.name, node.signer.public_key)]
    key = IssuerKey(material.ISSUER, material.GOOD.public_key, False, 0)
    trust = LogTrust([TRUSTED], policy(0), NodePolicy(len(nodes), nodes))
    return TrustedRoot([key], log_trust=trust)


def identity(name: str = "node-a") -> Issuer:
    return Issuer(name, NODES[name], False, 0)


def make_node(
    folder: Path, operator: str, *, clock: Clock, peers: tuple[str, ...] = ()
) -> VerificationNode:
    node = identity()
    settings = NodeSettings(folder, operator, trusted_root(node), peers=peers)
    return VerificationNode(settings, node, clock=clock)
