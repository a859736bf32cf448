"""The table of routes: which path, with which method, goes to which coroutine.

Most paths match exactly; families such as `/v1/models/{id}` match by prefix. What is not in the
table does not exist: there is no fallback.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from verispect.gateway import (
    advice_routes,
    chat,
    completions,
    embeddings,
    health,
    log_routes,
    models,
    open_inference,
    payment_routes,
    policies,
    receipts,
    responses,
    services,
    transaction_routes,
)
from verispect.gateway.http import HttpRequest, HttpResponse, StreamedResponse
from verispect.gateway.state import GatewayState

Response: TypeAlias = HttpResponse | StreamedResponse
Handler: TypeAlias = Callable[[GatewayState, HttpRequest], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One path or family of paths."""

    pattern: str
    """As documented; also the label of its metrics."""
    methods: Mapping[str, Handler]
    is_prefix: bool = False
    takes_json: bool = True
    """Whether a body must be `application/json`."""
    takes_tensors: bool = False
    """Whether the larger limit holds, and errors have the Open Inference Protocol's shape."""
    watches_caller: bool = False
    """Whether the work is worth stopping when the caller goes away."""
    takes_confidential: bool = False
    """Whether a body may come encrypted to the attested key."""
    is_sold: bool = False
    """Whether its inferences are paid for, where this server asks for money."""

    def allowed(self) -> str:
        """Return the value of an `Allow` header."""
        names = set(self.methods) | {"OPTIONS"}
        if "GET" in names:
            names.add("HEAD")
        return ", ".join(sorted(names))


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes, exact ones first."""

    exact: Mapping[str, Route]
    prefixes: tuple[tuple[str, Route], ...]

    def find(self, path: str) -> Route | None:
        """Return the route of `path`."""
        route = self.exact.get(path)
        if route is not None:
            return route
        for prefix, candidate in self.prefixes:
            if path.startswith(prefix) and len(path) > len(prefix):
                return candidate
        return None


_DISPATCH: Final = {"GET": open_inference.dispatch, "POST": open_inference.dispatch}

_ROUTES: Final = (
    Route(
        "/v1/chat/completions",
        {"POST": chat.create_chat_completion},
        watches_caller=True,
        takes_confidential=True,
        is_sold=True,
    ),
    Route(
        "/v1/completions",
        {"POST": completions.create_completion},
        watches_caller=True,
        takes_confidential=True,
        is_sold=True,
    ),
    Route(
        "/v1/responses",
        {"POST": responses.create_response},
        watches_caller=True,
        takes_confidential=True,
        is_sold=True,
    ),
    Route(
        "/v1/responses/{id}",
        {"GET": responses.retrieve_response, "DELETE": responses.delete_response},
        is_prefix=True,
    ),
    Route(
        "/v1/embeddings",
        {"POST": embeddings.create_embeddings},
        takes_confidential=True,
        is_sold=True,
    ),
    Route("/v1/models", {"GET": models.list_models}),
    Route("/v1/models/{id}", {"GET": models.retrieve_model}, is_prefix=True),
    Route(
        "/v1/receipts/{id}",
        {"GET": receipts.retrieve_receipt, "DELETE": receipts.cancel_proof},
        is_prefix=True,
    ),
    Route("/v1/services", {"GET": services.list_services}),
    Route("/v1/services/{name}", {"GET": services.retrieve_service}, is_prefix=True),
    Route("/v1/records/{digest}", {"GET": receipts.retrieve_record}, is_prefix=True),
    Route("/log/checkpoint", {"GET": log_routes.checkpoint}),
    Route("/log/description", {"GET": log_routes.description}),
    Route("/log/entries", {"POST": log_routes.submit}, takes_json=False),
    Route("/log/tile/{tile}", {"GET": log_routes.tile}, is_prefix=True),
    Route("/log/receipts/{digest}", {"GET": log_routes.receipt}, is_prefix=True),
    Route("/log/evidence/{digest}", {"GET": log_routes.evidence}, is_prefix=True),
    Route(
        "/log/openings/{digest}", {"POST": log_routes.openings}, is_prefix=True, takes_json=False
    ),
    Route("/v1/transactions", {"POST": transaction_routes.create_transaction}, watches_caller=True),
    Route(
        "/v1/transactions/{id}",
        {
            "GET": transaction_routes.retrieve_transaction,
            "POST": transaction_routes.end_transaction,
        },
        is_prefix=True,
        takes_json=False,
    ),
    Route("/v1/policies/{digest}", {"GET": policies.retrieve_policy}, is_prefix=True),
    Route("/v1/advise", {"GET": advice_routes.advise}),
    Route("/v1/prices", {"GET": payment_routes.retrieve_prices}),
    Route("/v1/payments/{id}", {"GET": payment_routes.retrieve_payment}, is_prefix=True),
    Route("/.well-known/x402", {"GET": payment_routes.manifest}),
    Route("/v1/attestation", {"GET": receipts.retrieve_attestation}),
    Route("/.well-known/verispect", {"GET": receipts.well_known}),
    Route("/v2", _DISPATCH, takes_json=False, takes_tensors=True),
    Route(
        "/v2/{path}", _DISPATCH, is_prefix=True, takes_json=False, takes_tensors=True, is_sold=True
    ),
    Route("/healthz", {"GET": health.healthz}),
    Route("/metrics", {"GET": health.metrics}),
)


def make_route_table() -> RouteTable:
    """Return the table of all routes."""
    exact = {route.pattern: route for route in _ROUTES if not route.is_prefix}
    prefixes = tuple(
        (route.pattern.partition("{")[0], route) for route in _ROUTES if route.is_prefix
    )
    return RouteTable(exact, prefixes)
