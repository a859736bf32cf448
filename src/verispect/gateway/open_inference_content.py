"""What the receipt of a tensor inference commits to, encoded.

The bytes are those of `verispect.core.encoding.encode_content` for `[[name, datatype, shape,
data], …]` and for the parameters as a map (spec/statement.md); written directly, because every
answer waits for them. This module refuses to choose what is committed to: it takes what the model
got and gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from verispect.core.cbor_items import ARRAY, byte_string, head, integer, text
from verispect.core.encoding import encode_content
from verispect.engines.interface import Tensor
from verispect.gateway.open_inference_codec import InferenceRequest


def encode_tensors(tensors: Sequence[Tensor]) -> bytes:
    """Return tensors as a receipt commits to them: exactly what the model got or gave."""
    parts = [head(ARRAY, len(tensors))]
    for tensor in tensors:
        shape = tensor.shape
        parts += (
            b"\x84",
            text(tensor.name),
            text(tensor.datatype),
            head(ARRAY, len(shape)),
            *map(integer, shape),
            byte_string(tensor.data),
        )
    return b"".join(parts)


def encode_parameters(request: InferenceRequest) -> bytes:
    """Return what was asked for beside the tensors, as a receipt commits to it."""
    if request.identifier is None and not request.outputs:
        return _USUAL_PARAMETERS[request.binary_by_default]
    return encode_content(_parameters(request))


def _parameters(request: InferenceRequest) -> dict[str, Any]:
    wanted = request.binary_outputs
    return {
        "id": request.identifier,
        "outputs": [{"name": name, "binary_data": wanted[name]} for name in request.outputs],
        "binary_data_output": request.binary_by_default,
    }


_USUAL_PARAMETERS: Final = {
    binary: encode_content(_parameters(InferenceRequest(None, [], [], {}, binary, None)))
    for binary in (False, True)
}
"""By whether outputs are binary: of a request with neither an id nor names of outputs."""
