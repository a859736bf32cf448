"""Which logs, witnesses and nodes a verifier trusts: the part of a trusted root about the log.

A log is trusted to be itself, never to be honest: the witnesses, k of n, say since when a tree was
seen, and the nodes, k of n, what they found. Nothing is trusted that is not listed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verispect.core.errors import MalformedError, Reason
from verispect.core.keys import PublicKey
from verispect.tlog.checkpoint import TrustedLog
from verispect.tlog.cosignature import MAX_WITNESSES, WitnessPolicy
from verispect.tlog.note import VerifierKey
from verispect.tlog.status_table import MAX_NODE_NAME_CHARACTERS, MAX_NODES, NodePolicy, TrustedNode

MAX_LOGS: Final = 64
MAX_LOG_KEYS: Final = 16


@dataclass(frozen=True, slots=True)
class LogTrust:
    """Logs by origin, the witnesses that count for all of them, and the nodes."""

    logs: Sequence[TrustedLog] = ()
    witnesses: WitnessPolicy = field(default_factory=lambda: WitnessPolicy(0, ()))
    nodes: NodePolicy = field(default_factory=NodePolicy)

    def log(self, origin: str) -> TrustedLog | None:
        """Return the log of this origin, if it is trusted."""
        return next((each for each in self.logs if each.origin == origin), None)

    def to_json(self) -> dict[str, Any]:
        """Return the members of a trusted root; those that are empty are left out."""
        document: dict[str, Any] = {}
        if self.logs:
            document["logs"] = [
                {"origin": log.origin, "keys": [key.encode() for key in log.keys]}
                for log in self.logs
            ]
        if self.witnesses.witnesses:
            document["witnesses"] = {
                "threshold": self.witnesses.threshold,
                "keys": [key.encode() for key in self.witnesses.witnesses],
            }
        if self.nodes.nodes:
            document["nodes"] = {
                "threshold": self.nodes.threshold,
                "keys": [
                    {"name": node.name, "key": node.key.to_text()} for node in self.nodes.nodes
                ],
            }
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LogTrust:
        """Read the members `logs`, `witnesses` and `nodes`, each of which may be absent.

        Raises:
            MalformedError: naming the member at fault.
        """
        logs = tuple(_log(each) for each in _array(document.get("logs", []), MAX_LOGS, "logs"))
        if len({log.origin for log in logs}) != len(logs):
            raise _malformed("an origin is listed twice")
        return cls(
            logs=logs,
            witnesses=_witnesses(document["witnesses"])
            if "witnesses" in document
            else WitnessPolicy(0, ()),
            nodes=_nodes(document["nodes"]) if "nodes" in document else NodePolicy(),
        )


def majority(count: int) -> int:
    """Return how many of `count` are more than half; 0 of none."""
    return count // 2 + 1 if count else 0


def parse_node(text: str) -> TrustedNode:
    """Read `NAME=KEY`.

    Raises:
        MalformedError: `malformed-key`.
    """
    name, separator, key = text.rpartition("=")
    if not separator or not 0 < len(name) <= MAX_NODE_NAME_CHARACTERS or not name.isprintable():
        raise MalformedError("expected a node as NAME=KEY", reason=Reason.MALFORMED_KEY)
    return TrustedNode(name, PublicKey.from_text(key))


NO_LOGS: Final = LogTrust()
"""Trusts no log, no witness and no node."""

MEMBERS: Final = frozenset({"logs", "witnesses", "nodes"})


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_TRUSTED_ROOT)


def _array(value: Any, limit: int, name: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > limit:
        raise _malformed(f"{name} is not an array of at most {limit}")
    return value


def _members(value: Any, names: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.keys() != names:
        raise _malformed(f"{what} has a missing or unknown member")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise _malformed(f"{what} is not text")
    return value


def _threshold(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise _malformed(f"the threshold of {what} is not a number")
    return value


def _log(value: Any) -> TrustedLog:
    members = _members(value, {"origin", "keys"}, "a log")
    keys = [
        VerifierKey.parse(_text(key, "the key of a log"))
        for key in _array(members["keys"], MAX_LOG_KEYS, "keys of a log")
    ]
    origin = _text(members["origin"], "origin")
    # C2SP names a log's key by its origin; another name could be another log's key by mistake.
    if any(key.name != origin for key in keys):
        raise _malformed("the key of a log has another name than its origin")
    return TrustedLog(origin, keys)


def _witnesses(value: Any) -> WitnessPolicy:
    members = _members(value, {"threshold", "keys"}, "witnesses")
    keys = _array(members["keys"], MAX_WITNESSES, "keys of witnesses")
    return WitnessPolicy(
        _threshold(members["threshold"], "witnesses"),
        [VerifierKey.parse(_text(key, "the key of a witness")) for key in keys],
    )


def _nodes(value: Any) -> NodePolicy:
    members = _members(value, {"threshold", "keys"}, "nodes")
    nodes = []
    for each in _array(members["keys"], MAX_NODES, "keys of nodes"):
        node = _members(each, {"name", "key"}, "a node")
        name = _text(node["name"], "the name of a node")
        if not 0 < len(name) <= MAX_NODE_NAME_CHARACTERS or not name.isprintable():
            raise _malformed("the name of a node is not short text")
        nodes.append(TrustedNode(name, PublicKey.from_text(_text(node["key"], "a node's key"))))
    return NodePolicy(_threshold(members["threshold"], "nodes"), nodes)
