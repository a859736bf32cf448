"""The response object of `/v1/responses`, member for member as OpenAI's clients parse it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verispect.engines.interface import Sampling
from verispect.gateway.responses_wire import ResponsesRequest


@dataclass(frozen=True, slots=True)
class ResponseFrame:
    """What is known of a response before the model has said anything."""

    identifier: str
    model: str
    created_at: int
    """Seconds since the epoch."""
    request: ResponsesRequest
    sampling: Sampling
    """As resolved: the echo says what ran, not what was left out."""
    store: bool

    def to_object(
        self,
        status: str,
        *,
        output: Sequence[Mapping[str, Any]] = (),
        completed_at: int | None = None,
        incomplete_reason: str | None = None,
        error: Mapping[str, Any] | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the response object.

        Args:
            status: `in_progress`, `completed`, `incomplete` or `failed`.
            output: the output items.
            completed_at: seconds since the epoch, of a completed response.
            incomplete_reason: why an incomplete response is.
            error: of a failed response.
            usage: from `usage_object`.
        """
        request = self.request
        accepted = request.accepted
        return {
            "id": self.identifier,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": completed_at,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": incomplete_reason} if incomplete_reason else None,
            "instructions": request.instructions,
            "max_output_tokens": request.sampling.maximum_tokens,
            "max_tool_calls": None,
            "metadata": accepted.get("metadata", {}),
            "model": self.model,
            "output": list(output),
            "parallel_tool_calls": request.parallel_tool_calls,
            "previous_response_id": request.previous_response_id,
            "prompt_cache_key": accepted.get("prompt_cache_key"),
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": accepted.get("safety_identifier"),
            "service_tier": "default",
            "store": self.store,
            "temperature": self.sampling.temperature,
            "text": {"format": request.text_format, "verbosity": "medium"},
            "tool_choice": request.tool_choice,
            "tools": list(request.tools),
            "top_logprobs": request.sampling.top_logprobs or 0,
            "top_p": self.sampling.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": accepted.get("user"),
        }


def usage_object(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return the usage of a response; the details, which no engine reports, are zero."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }
