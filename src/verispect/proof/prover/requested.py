"""The requests that one proof is made for: what may stand together, and how a proof names it.

This module refuses what no proof can cover. Whether requests of different callers may share a proof
is not known here: in mode succinct it shows them to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from verispect.core.encoding import DIGEST_BYTES
from verispect.core.errors import Reason, RequestError
from verispect.proof.graph_parts import MAX_BATCH
from verispect.proof.parameters import Code, Mode
from verispect.proof.requests import (
    MAX_REQUESTS,
    NO_SALT,
    SALT_BYTES,
    RequestDigests,
    context_digest,
    input_digest,
    output_digest,
)
from verispect.proof.runtime import Trace

Integers = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Request:
    """One request of those that a proof covers.

    Args:
        inputs: integers within the input's range, batch first.
        context: 32 octets, what the request is about; no two of a proof have the same.
        salt: of its digests; zero where nobody is to be kept from guessing the request.
    """

    inputs: Integers = field(repr=False)
    context: bytes
    salt: bytes = field(default=NO_SALT, repr=False)


def require_possible(
    requests: Sequence[Request], code: Code, mode: Mode, *, hidden_input: bool
) -> None:
    """Refuse requests that one proof cannot cover.

    Raises:
        RequestError: `invalid-request`.
    """
    wrong = _wrong_mode(requests, code, mode, hidden_input) or _wrong_requests(requests)
    if wrong is not None:
        raise RequestError(wrong, reason=Reason.INVALID_REQUEST)


def _wrong_mode(
    requests: Sequence[Request], code: Code, mode: Mode, hidden_input: bool
) -> str | None:
    if mode is not code.mode:
        return f"the model is committed for mode {code.mode}"
    if hidden_input and not code.hides:
        return "mode succinct hides no input"
    if hidden_input and len(requests) > 1:
        return "a hidden input shares no proof"
    return None


def _wrong_requests(requests: Sequence[Request]) -> str | None:
    if not 1 <= len(requests) <= MAX_REQUESTS:
        return f"a proof covers 1 to {MAX_REQUESTS} requests"
    for request in requests:
        if len(request.context) != DIGEST_BYTES:
            return "a context has 32 octets"
        if len(request.salt) != SALT_BYTES:
            return "a salt has 32 octets"
        if len(request.inputs) == 0:
            return "a request has at least one row"
    if sum(len(request.inputs) for request in requests) > MAX_BATCH:
        return f"a proof has at most {MAX_BATCH} rows"
    if len({context_digest(each.salt, each.context) for each in requests}) < len(requests):
        return "a request is there twice"
    if len({request.inputs.shape[1:] for request in requests}) > 1:
        return "the requests' inputs have different shapes"
    return None


def joined(requests: Sequence[Request]) -> Integers:
    """Return the rows of all requests."""
    if len(requests) == 1:
        return requests[0].inputs
    return np.concatenate([request.inputs for request in requests])


def digests(
    requests: Sequence[Request], trace: Trace, *, hidden_input: bool
) -> tuple[RequestDigests, ...]:
    """Return what a proof says of each request, from the run on all of them."""
    found = []
    start = 0
    for request in requests:
        rows = slice(start, start + len(request.inputs))
        start = rows.stop
        source = _octets(trace.tensors[0][rows], "<i2")
        answer = _octets(trace.output[rows], "<i8")
        found.append(
            RequestDigests(
                len(request.inputs),
                context_digest(request.salt, request.context),
                None if hidden_input else input_digest(request.salt, source),
                output_digest(request.salt, answer),
            )
        )
    return tuple(found)


def _octets(values: Integers, kind: str) -> bytes:
    return np.ascontiguousarray(values, dtype=kind).tobytes()
