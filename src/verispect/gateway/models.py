"""`GET /v1/models` and `GET /v1/models/{id}`: what this server serves, and how that is known.

OpenAI's shape, with one more member `verispect` that holds the model's identity. An unknown model
is 404; no other model is ever shown or served in its place.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from verispect.gateway import services
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.policies import sums_of
from verispect.gateway.serving import ServedModel
from verispect.gateway.state import GatewayState

_PREFIX: Final = "/v1/models/"


async def list_models(state: GatewayState, request: HttpRequest) -> HttpResponse:  # noqa: ARG001
    """Answer `GET /v1/models`: every name that this server serves, sorted."""
    models = [_model_member(state, state.pool.find(name)) for name in state.pool.names()]
    models += services.model_members(state)
    return HttpResponse(200, msgspec.json.encode({"object": "list", "data": models}))


async def retrieve_model(state: GatewayState, request: HttpRequest) -> HttpResponse:
    """Answer `GET /v1/models/{id}`; an id may hold a slash, escaped or not.

    Raises:
        ModelError: `model-not-found`, which is 404.
    """
    # The path is unescaped already: `%2F` and `/` are the same name.
    served = state.pool.find(request.path.removeprefix(_PREFIX))
    return HttpResponse(200, msgspec.json.encode(_model_member(state, served)))


def _model_member(state: GatewayState, served: ServedModel) -> dict[str, Any]:
    available = {
        name: policy
        for name, policy in state.recorder.deliverable(served, confidential=False).items()
        if served.identity in policy.model_identities
    }
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": served.owner,
        "verispect": {
            "model_id": served.model_id.hex(),
            "kind": served.kind,
            "identity": served.identity.label,
            "determinism": served.determinism.label,
            "lanes": [lane.value for lane in served.lanes],
            "assurance": sorted(available),
            "assurance_sums": sorted(sums_of(available)),
        },
    }
