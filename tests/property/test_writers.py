"""What is written by hand for speed has the bytes that the strict encoder gives for the value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from verispect.core.cbor_items import ARRAY, MAP, byte_string, head, integer, text
from verispect.core.commitments import Part
from verispect.core.encoding import decode, encode, encode_content
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    PaymentBinding,
    Price,
    PromisedEvidence,
    ServedLane,
    ServiceBinding,
    StreamBinding,
    TransactionBinding,
)
from verispect.engines.interface import Tensor
from verispect.gateway.open_inference_codec import InferenceRequest
from verispect.gateway.open_inference_content import encode_parameters, encode_tensors

digests = st.binary(min_size=32, max_size=32)
counts = st.one_of(st.integers(0, 70_000), st.integers(0, (1 << 63) - 1))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
usage_words = st.sampled_from(
    ["input_tokens", "cached_tokens", "output_tokens", "input_bytes", "output_bytes"]
)

models = st.builds(
    ExecutedModel,
    identity=st.sampled_from(ModelIdentity),
    model_id=digests,
    engine=digests,
    determinism=st.sampled_from(Determinism),
    lane=st.sampled_from(ServedLane),
)
promises = st.builds(PromisedEvidence, names, st.none() | digests, st.none() | counts)
statements = st.builds(
    InferenceStatement,
    sequence=counts,
    received_at=counts,
    completed_at=counts,
    signed_at=counts,
    operation=names,
    requested_model=names,
    model=models,
    commitments=st.dictionaries(st.sampled_from(Part), digests),
    finish_reasons=st.lists(names, max_size=30),
    usage=st.dictionaries(usage_words, counts),
    assurance=digests,
    evidence=st.lists(promises, max_size=4),
    nonce=st.none() | st.binary(min_size=8, max_size=64),
    stream=st.none() | st.builds(StreamBinding, counts, digests),
    price=st.none() | st.builds(Price, names, counts, counts, counts, counts),
    payment=st.none() | st.builds(PaymentBinding, names, digests),
    transaction=st.none()
    | st.builds(TransactionBinding, st.binary(min_size=16, max_size=16), counts, counts),
    confidential=st.none() | digests,
    service=st.none()
    | st.builds(ServiceBinding, names, counts.filter(lambda number: number > 0), digests),
)
tensors = st.builds(
    Tensor,
    names,
    st.sampled_from(["FP32", "INT64", "BYTES"]),
    st.lists(counts, max_size=8).map(tuple),
    st.binary(max_size=400),
)


@given(st.integers(-(1 << 64), (1 << 64) - 1))
def test_an_integer_is_written_as_encoded(value: int) -> None:
    """Every integer of 64 bits has the encoder's bytes."""
    assert integer(value) == encode(value)


@given(names, st.binary(max_size=70_000))
def test_text_and_bytes_are_written_as_encoded(words: str, data: bytes) -> None:
    """Texts and byte strings of every length have the encoder's bytes."""
    assert text(words) == encode(words)
    assert byte_string(data) == encode(data)


@given(st.integers(0, 70_000))
def test_heads_are_written_as_encoded(count: int) -> None:
    """The head of an array or a map is how the encoder begins it."""
    assert encode([None] * count).startswith(head(ARRAY, count))
    assert encode(dict.fromkeys(range(count))).startswith(head(MAP, count))


@given(statements, counts, counts)
def test_a_statement_is_written_as_encoded(
    statement: InferenceStatement, sequence: int, signed_at: int
) -> None:
    """Whatever fields a statement has, its payload is the strict encoding of its map."""
    fields = statement.to_map()
    assert statement.encode() == encode(fields)
    fields[2], fields[5] = sequence, signed_at
    payload = statement.encode_numbered(sequence, signed_at)
    assert payload == encode(fields)
    assert decode(payload) == fields


@given(st.lists(tensors, max_size=30))
def test_tensors_are_written_as_encoded(items: list[Tensor]) -> None:
    """Tensors are committed to as `[name, datatype, shape, data]` in the content encoding."""
    rows = [[item.name, item.datatype, list(item.shape), item.data] for item in items]
    assert encode_tensors(items) == encode_content(rows)


@given(st.none() | names, st.dictionaries(names, st.booleans(), max_size=3), st.booleans())
def test_parameters_are_written_as_encoded(
    identifier: str | None, wanted: dict[str, bool], default: bool
) -> None:
    """What was asked for beside the tensors is committed to as the map that the format names."""
    request = InferenceRequest(identifier, [], list(wanted), wanted, default, None)
    outputs = [{"name": name, "binary_data": binary} for name, binary in wanted.items()]
    content = {"id": identifier, "outputs": outputs, "binary_data_output": default}
    assert encode_parameters(request) == encode_content(content)
