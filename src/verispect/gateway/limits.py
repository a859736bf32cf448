"""Every limit of the gateway, by name, in one place.

A value that comes from outside has a maximum here. What exceeds it is refused with a clear error;
nothing is cut to size in silence.
"""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The gateway's limits; the defaults suit one server on the open network."""

    maximum_json_bytes: int = 16 * MEBIBYTE
    """Body of a JSON route."""
    maximum_tensor_bytes: int = 64 * MEBIBYTE
    """Body of an Open Inference Protocol route."""
    maximum_headers: int = 64
    maximum_header_bytes: int = 16 * 1024
    """Names and values of all headers together."""
    maximum_target_bytes: int = 4096
    """Path and query string together."""
    maximum_query_fields: int = 32
    header_seconds: float = 15.0
    """From the first byte of a request, or the opening of a connection, to the end of its head."""
    body_seconds: float = 60.0
    """From the head of a request to the last byte of its body."""
    send_seconds: float = 60.0
    """How long a caller may leave one part of a stream unread."""
    linger_seconds: float = 2.0
    """How long the rest of a refused body is read, so that the refusal reaches its caller."""
    disconnect_seconds: float = 10.0
    """How long a stream may take to write its receipt after its caller has gone."""
    confidential_seconds: float = 300.0
    """How far from this server's clock an encrypted request may say that it was made."""
    maximum_confidential_remembered: int = 262_144
    """Encrypted requests that are remembered, so that none is answered twice."""
    concurrent_requests: int = 256
    """Requests at work at once; one more is refused with 503."""
    retry_after_seconds: int = 1
    maximum_json_depth: int = 28
    """Nested arrays and objects; four less than the encoding of commitments takes."""
    maximum_messages: int = 4096
    maximum_choices: int = 8
    maximum_stops: int = 4
    maximum_stop_characters: int = 256
    maximum_tools: int = 128
    maximum_prompts: int = 64
    maximum_logit_bias: int = 1024
    maximum_top_logprobs: int = 20
    maximum_completion_logprobs: int = 5
    maximum_metadata_entries: int = 16
    maximum_metadata_key_characters: int = 64
    maximum_metadata_value_characters: int = 512
    maximum_identifier_characters: int = 256
    """`user`, `safety_identifier`, `model` and such names."""
