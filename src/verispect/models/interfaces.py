"""What a tensor model's graph takes and gives, and where a remote model is reached.

Parts of a model manifest, like those in `verispect.models.components`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from verispect.core.errors import RequestError
from verispect.models.components import MAX_DOMAINS, MAX_SHAPE_DIMENSIONS, read_counts
from verispect.models.strict_map import MAX_INTEGER, StrictMap

MAX_PORTS: Final = 1024
"""Upper limit of inputs, and of outputs."""

MAX_PORT_NAME: Final = 1024

DATATYPES: Final = frozenset(
    [
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BF16",
        "BYTES",
    ]
)
"""Element types of the Open Inference Protocol."""


@dataclass(frozen=True, slots=True)
class TensorPort:
    """One input or output of a tensor model."""

    name: str
    datatype: str
    """Open Inference Protocol name."""
    shape: tuple[int, ...]
    """-1 for a dimension that varies."""

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    @classmethod
    def from_content(cls, value: Any, where: str) -> TensorPort:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        datatype = fields.text("datatype")
        if datatype not in DATATYPES:
            raise fields.refuse("datatype is unknown")
        shape = fields.take("shape")
        if (
            type(shape) is not list
            or len(shape) > MAX_SHAPE_DIMENSIONS
            or not all(type(size) is int and -1 <= size <= MAX_INTEGER for size in shape)
        ):
            raise fields.refuse("shape is not a short list of dimensions")
        port = cls(fields.text("name", limit=MAX_PORT_NAME), datatype, tuple(shape))
        fields.finish()
        return port


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What an ONNX file says of its graph."""

    ir_version: int
    opset_imports: Mapping[str, int]
    """Operator-set version by domain; the standard domain is `ai.onnx`."""
    operator_domains: tuple[str, ...]
    """Domains of the operators that occur, sorted; `ai.onnx` for the standard one."""
    inputs: tuple[TensorPort, ...]
    outputs: tuple[TensorPort, ...]

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {
            "ir_version": self.ir_version,
            "opset_imports": dict(self.opset_imports),
            "operator_domains": list(self.operator_domains),
            "inputs": [port.to_content() for port in self.inputs],
            "outputs": [port.to_content() for port in self.outputs],
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> GraphFacts:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        domains = fields.take("operator_domains")
        if (
            type(domains) is not list
            or len(domains) > MAX_DOMAINS
            or not all(type(domain) is str and len(domain) <= 255 for domain in domains)
            or sorted(set(domains)) != domains
        ):
            raise fields.refuse("operator_domains is not a sorted list of names")
        facts = cls(
            fields.integer("ir_version"),
            read_counts(fields.take("opset_imports"), f"{where}.opsets", limit=MAX_DOMAINS),
            tuple(domains),
            fields.items("inputs", TensorPort.from_content, limit=MAX_PORTS),
            fields.items("outputs", TensorPort.from_content, limit=MAX_PORTS),
        )
        fields.finish()
        return facts


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """Where somebody else's model is reached; its weights are not known."""

    scheme: str
    """`https`, or `http` where the operator chose it."""
    host: str
    """Host, and port where it is not the scheme's own; lower case."""
    path_prefix: str
    """For example `/v1`; without a slash at the end."""
    upstream_model: str
    """The name that the upstream is asked for."""
    protocol: str
    """`openai`."""

    @property
    def base_url(self) -> str:
        """The address that request paths are appended to."""
        return f"{self.scheme}://{self.host}{self.path_prefix}"

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {
            "scheme": self.scheme,
            "host": self.host,
            "path_prefix": self.path_prefix,
            "upstream_model": self.upstream_model,
            "protocol": self.protocol,
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> RemoteEndpoint:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        endpoint = cls(
            fields.text("scheme"),
            fields.text("host", limit=262),
            fields.text("path_prefix", limit=1024),
            fields.text("upstream_model", limit=512),
            fields.text("protocol", limit=64),
        )
        fields.finish()
        if endpoint.scheme not in ("http", "https") or not endpoint.host:
            raise fields.refuse("scheme or host is not usable")
        return endpoint


def parse_endpoint(url: str, upstream_model: str, protocol: str = "openai") -> RemoteEndpoint:
    """Return the endpoint that a base address such as `https://api.example/v1` names.

    Raises:
        RequestError: `invalid-request`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RequestError("the address of the remote model is malformed") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RequestError("the address of a remote model begins with https:// or http://")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise RequestError("the address of a remote model must not carry credentials or a query")
    if not 0 < len(upstream_model) <= 512 or len(parts.path) > 1024 or protocol != "openai":
        raise RequestError("the remote model has no usable name, path or protocol")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme]:
        host = f"{host}:{port}"
    return RemoteEndpoint(parts.scheme, host, parts.path.rstrip("/"), upstream_model, protocol)
