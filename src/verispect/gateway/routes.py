"""The table of routes: which path, with which method, goes to which coroutine.

Hot paths match exactly; families such as `/v1/models/{id}` match by prefix. Modules of slower
routes are imported when the table is made, so that a server without an optional engine starts.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

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


_MODULE: Final = "verispect.gateway."

# The pattern, the coroutine of each method, and the options of `Route`.
_TABLE: Final[tuple[tuple[str, Mapping[str, str], Mapping[str, bool]], ...]] = (
    (
        "/v1/chat/completions",
        {"POST": "chat.create_chat_completion"},
        {"watches_caller": True},
    ),
    ("/v1/completions", {"POST": "completions.create_completion"}, {"watches_caller": True}),
    ("/v1/responses", {"POST": "responses.create_response"}, {"watches_caller": True}),
    (
        "/v1/responses/{id}",
        {"GET": "responses.retrieve_response", "DELETE": "responses.delete_response"},
        {"is_prefix": True},
    ),
    ("/v1/embeddings", {"POST": "embeddings.create_embeddings"}, {}),
    ("/v1/models", {"GET": "models.list_models"}, {}),
    ("/v1/models/{id}", {"GET": "models.retrieve_model"}, {"is_prefix": True}),
    ("/v1/receipts/{id}", {"GET": "receipts.retrieve_receipt"}, {"is_prefix": True}),
    ("/.well-known/verispect", {"GET": "receipts.well_known"}, {}),
    (
        "/v2",
        {"GET": "open_inference.dispatch", "POST": "open_inference.dispatch"},
        {"takes_tensors": True, "takes_json": False},
    ),
    (
        "/v2/{path}",
        {"GET": "open_inference.dispatch", "POST": "open_inference.dispatch"},
        {"takes_tensors": True, "takes_json": False, "is_prefix": True},
    ),
    ("/healthz", {"GET": "health.healthz"}, {}),
    ("/metrics", {"GET": "health.metrics"}, {}),
)


def make_route_table() -> RouteTable:
    """Import the route modules and return the table."""
    exact: dict[str, Route] = {}
    prefixes: list[tuple[str, Route]] = []
    for pattern, targets, options in _TABLE:
        methods = {method: _handler(target) for method, target in targets.items()}
        route = Route(pattern, {m: h for m, h in methods.items() if h is not None}, **options)
        if not route.methods:
            continue
        if route.is_prefix:
            prefixes.append((pattern[: pattern.index("{")], route))
        else:
            exact[pattern] = route
    return RouteTable(exact, tuple(prefixes))


def _handler(target: str) -> Handler | None:
    module_name, function_name = target.split(".")
    if importlib.util.find_spec(_MODULE + module_name) is None:
        return None
    handler: Handler = getattr(importlib.import_module(_MODULE + module_name), function_name)
    return handler
