"""A strict reader of ONNX files: graph facts, weights, external data.

The file is parsed with the `onnx` package. Weights are the initialisers and constant attributes
of the graph, of every subgraph (`If`, `Loop`, `Scan`) and of every local function, typed, raw or
external. Refused are operators from domains that are not on the list, because they run native
code that no manifest knows; external data outside the model's folder; inputs and outputs that
are not tensors; and sizes beyond the limits. It never opens a file itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import encode, sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.models.components import TensorSummary, check_file_name
from verispect.models.interfaces import MAX_PORTS, GraphFacts, TensorPort
from verispect.models.merkle import TensorDigest, tensor_root

MAX_ONNX_BYTES: Final = (1 << 31) - 1
MAX_NODES: Final = 1_000_000
MAX_GRAPH_DEPTH: Final = 16
MAX_RANK: Final = 16
MAX_ELEMENTS: Final = 1 << 36

ALLOWED_DOMAINS: Final = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
"""Operator domains that ONNX Runtime implements itself; functions inside the file come on top."""

# `TensorProto.DataType` -> our name, bits per element, Open Inference Protocol name.
_ELEMENT_TYPES: Final[Mapping[int, tuple[str, int, str | None]]] = {
    1: ("F32", 32, "FP32"),
    2: ("U8", 8, "UINT8"),
    3: ("I8", 8, "INT8"),
    4: ("U16", 16, "UINT16"),
    5: ("I16", 16, "INT16"),
    6: ("I32", 32, "INT32"),
    7: ("I64", 64, "INT64"),
    8: ("STRING", 0, "BYTES"),
    9: ("BOOL", 8, "BOOL"),
    10: ("F16", 16, "FP16"),
    11: ("F64", 64, "FP64"),
    12: ("U32", 32, "UINT32"),
    13: ("U64", 64, "UINT64"),
    14: ("C64", 64, None),
    15: ("C128", 128, None),
    16: ("BF16", 16, "BF16"),
    17: ("F8E4M3FN", 8, None),
    18: ("F8E4M3FNUZ", 8, None),
    19: ("F8E5M2", 8, None),
    20: ("F8E5M2FNUZ", 8, None),
    21: ("U4", 4, None),
    22: ("I4", 4, None),
    23: ("F4E2M1", 4, None),
}
_STRING_TYPE: Final = 8


@dataclass(frozen=True, slots=True)
class _Found:
    """A tensor and its unique place, such as `cond/then_branch/weight`."""

    name: str
    tensor: Any


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A parsed ONNX file; `tensors` needs the external data it names."""

    facts: GraphFacts
    external_locations: tuple[str, ...]
    """Files that hold weights, as the graph names them: relative, sorted, unique."""
    _found: tuple[_Found, ...]

    def tensors(self, external: Mapping[str, Any]) -> TensorSummary:
        """Digest every weight.

        Args:
            external: the bytes of each external file, as `bytes` or a memory view.

        Raises:
            MalformedError: `malformed-model` where a tensor does not fit its bytes.
        """
        digests = [_digest(found, external) for found in self._found]
        return TensorSummary(
            root=tensor_root(digests),
            count=len(digests),
            parameters=sum(digest.elements for digest in digests),
            types=dict(Counter(digest.element_type for digest in digests)),
        )


def read_onnx(content: bytes) -> OnnxFile:
    """Parse and check an ONNX file.

    Raises:
        MalformedError: `malformed-model`, or `too-large`.
        UnsupportedError: `unsupported-model` for foreign operators and ports without a tensor.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import ModelProto

    if len(content) > MAX_ONNX_BYTES:
        raise MalformedError(
            f"expected an onnx file of at most {MAX_ONNX_BYTES} bytes", reason=Reason.TOO_LARGE
        )
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise _malformed("the file is not a model protobuf") from error
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        raise _malformed("the file has no graph, operator set or output")
    if not 1 <= model.ir_version <= 1000:
        raise _malformed("ir version out of range")
    walk = _Walk()
    walk.graph(model.graph, "", 0)
    for function in model.functions:
        place = f"{function.domain}:{function.name}:{function.overload}/"
        walk.nodes(function.node, place, 1)
    defined = {(function.domain, function.name) for function in model.functions}
    _check_operators(walk.operators, defined)
    locations = {location for found in walk.found for location in _location(found)}
    return OnnxFile(
        facts=_facts(model, walk.operators),
        external_locations=tuple(sorted(locations)),
        _found=tuple(walk.found),
    )


class _Walk:
    """Gathers weights and operators of a graph and everything nested in it."""

    def __init__(self) -> None:
        self.found: list[_Found] = []
        self.operators: set[tuple[str, str]] = set()
        self._count = 0

    def graph(self, graph: Any, place: str, depth: int) -> None:
        if depth > MAX_GRAPH_DEPTH:
            raise MalformedError(
                f"onnx: graphs are nested deeper than {MAX_GRAPH_DEPTH}", reason=Reason.TOO_DEEP
            )
        for tensor in graph.initializer:
            self.found.append(_Found(f"{place}{tensor.name}", tensor))
        for sparse in graph.sparse_initializer:
            self._sparse(sparse, f"{place}{sparse.values.name}")
        self.nodes(graph.node, place, depth)

    def nodes(self, nodes: Iterable[Any], place: str, depth: int) -> None:
        for index, node in enumerate(nodes):
            self._count += 1
            if self._count > MAX_NODES:
                raise MalformedError(f"onnx: more than {MAX_NODES} nodes", reason=Reason.TOO_LARGE)
            self.operators.add((node.domain, node.op_type))
            label = node.output[0] if node.output and node.output[0] else f"#{index}"
            for attribute in node.attribute:
                self._attribute(attribute, f"{place}{label}", depth)

    def _attribute(self, attribute: Any, place: str, depth: int) -> None:
        place = f"{place}.{attribute.name}"
        if attribute.HasField("t"):
            self.found.append(_Found(place, attribute.t))
        for index, tensor in enumerate(attribute.tensors):
            self.found.append(_Found(f"{place}[{index}]", tensor))
        if attribute.HasField("sparse_tensor"):
            self._sparse(attribute.sparse_tensor, place)
        for index, sparse in enumerate(attribute.sparse_tensors):
            self._sparse(sparse, f"{place}[{index}]")
        if attribute.HasField("g"):
            self.graph(attribute.g, f"{place}/", depth + 1)
        for index, graph in enumerate(attribute.graphs):
            self.graph(graph, f"{place}[{index}]/", depth + 1)

    def _sparse(self, sparse: Any, place: str) -> None:
        self.found.append(_Found(f"{place}!values", sparse.values))
        self.found.append(_Found(f"{place}!indices", sparse.indices))


def _check_operators(operators: Iterable[tuple[str, str]], defined: set[tuple[str, str]]) -> None:
    for domain, name in sorted(operators):
        if domain not in ALLOWED_DOMAINS and (domain, name) not in defined:
            raise UnsupportedError(
                f"onnx operator {name[:64]} is of the foreign domain {domain[:64]!r}",
                reason=Reason.UNSUPPORTED_MODEL,
            )


def _facts(model: Any, operators: Iterable[tuple[str, str]]) -> GraphFacts:
    imports: dict[str, int] = {}
    for entry in model.opset_import:
        domain = entry.domain or "ai.onnx"
        # Exporters repeat an import; two versions of one domain would leave the choice open.
        if imports.get(domain, entry.version) != entry.version or not 0 < entry.version < 1 << 31:
            raise _malformed("an operator set has no version, or two")
        imports[domain] = entry.version
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [port for port in model.graph.input if port.name not in weights]
    if len(inputs) > MAX_PORTS or len(model.graph.output) > MAX_PORTS:
        raise MalformedError(f"onnx: more than {MAX_PORTS} ports", reason=Reason.TOO_LARGE)
    return GraphFacts(
        ir_version=model.ir_version,
        opset_imports=imports,
        operator_domains=tuple(sorted({domain or "ai.onnx" for domain, _ in operators})),
        inputs=tuple(_port(port) for port in inputs),
        outputs=tuple(_port(port) for port in model.graph.output),
    )


def _port(port: Any) -> TensorPort:
    known = _ELEMENT_TYPES.get(port.type.tensor_type.elem_type)
    if port.type.WhichOneof("value") != "tensor_type" or known is None or known[2] is None:
        raise UnsupportedError(
            f"onnx input or output {port.name[:64]!r} is not a tensor of a known type",
            reason=Reason.UNSUPPORTED_MODEL,
        )
    dimensions = port.type.tensor_type.shape.dim
    if len(dimensions) > MAX_RANK or len(port.name) > 1024:
        raise _malformed("an input or output has too many dimensions or too long a name")
    shape = tuple(
        size.dim_value if size.WhichOneof("value") == "dim_value" and size.dim_value >= 0 else -1
        for size in dimensions
    )
    return TensorPort(port.name, known[2], shape)


def _location(found: _Found) -> Iterator[str]:
    """Yield the external file of a tensor, if it has one, after checking its name."""
    if found.tensor.data_location == found.tensor.EXTERNAL:
        location = _external_fields(found).get("location", "")
        # An absolute path, `..`, or a foreign separator would read a file beside the model.
        yield check_file_name(location, reason=Reason.MALFORMED_MODEL)


def _external_fields(found: _Found) -> dict[str, str]:
    fields: dict[str, str] = {}
    for entry in found.tensor.external_data:
        if entry.key in fields:
            raise _malformed(f"external data of {found.name[:64]!r} is given twice")
        fields[entry.key] = entry.value
    return fields


def _digest(found: _Found, external: Mapping[str, Any]) -> TensorDigest:
    tensor = found.tensor
    known = _ELEMENT_TYPES.get(tensor.data_type)
    if known is None or len(tensor.dims) > MAX_RANK or tensor.HasField("segment"):
        raise _malformed(f"tensor {found.name[:64]!r} has an unknown type or form")
    name, bits, _ = known
    elements = 1
    for size in tensor.dims:
        if size < 0:
            raise _malformed(f"tensor {found.name[:64]!r} has a negative dimension")
        elements *= size
    if elements > MAX_ELEMENTS:
        raise MalformedError("onnx: a tensor is too large", reason=Reason.TOO_LARGE)
    if tensor.data_type == _STRING_TYPE:
        content = _strings(found, elements)
    else:
        content = _numbers(found, external, (elements * bits + 7) // 8)
    return TensorDigest(found.name, name, tuple(tensor.dims), sha256(content))


def _strings(found: _Found, elements: int) -> bytes:
    strings = list(found.tensor.string_data)
    if len(strings) != elements or found.tensor.data_location == found.tensor.EXTERNAL:
        raise _malformed(f"tensor {found.name[:64]!r} does not fit its strings")
    return encode(strings)


def _numbers(found: _Found, external: Mapping[str, Any], length: int) -> bytes:
    tensor = found.tensor
    if tensor.data_location == tensor.EXTERNAL:
        content = _external_bytes(found, external, length)
    elif tensor.HasField("raw_data"):
        content = tensor.raw_data
    else:
        content = _typed_bytes(found)
    if len(content) != length:
        raise _malformed(f"tensor {found.name[:64]!r} does not fit its bytes")
    return content


def _external_bytes(found: _Found, external: Mapping[str, Any], length: int) -> bytes:
    fields = _external_fields(found)
    try:
        offset = int(fields.get("offset", "0"))
        stated = int(fields.get("length", str(length)))
        data = external[fields["location"]]
    except (KeyError, ValueError):
        raise _malformed(f"external data of {found.name[:64]!r} is not usable") from None
    if offset < 0 or stated != length or offset + length > len(data):
        raise _malformed(f"external data of {found.name[:64]!r} is out of range")
    return bytes(data[offset : offset + length])


def _typed_bytes(found: _Found) -> bytes:
    """Return the little-endian bytes of a tensor whose numbers stand in typed fields."""
    from onnx import numpy_helper

    try:
        values = numpy_helper.to_array(found.tensor)
        # Types below one byte are packed in the file but not in numpy.
        if _ELEMENT_TYPES[found.tensor.data_type][1] < 8:
            return b"".join(number.to_bytes(1, "little") for number in found.tensor.int32_data)
        return bytes(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise _malformed(f"tensor {found.name[:64]!r} does not fit its numbers") from error


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"onnx: {what}", reason=Reason.MALFORMED_MODEL)
