"""`/healthz` and `/metrics`: for whoever runs the server; neither shows anything of a request."""

from __future__ import annotations

from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.metrics import CONTENT_TYPE
from verispect.gateway.state import GatewayState


async def healthz(_state: GatewayState, _request: HttpRequest) -> HttpResponse:
    """Answer that the server accepts requests."""
    return HttpResponse(200, b'{"status":"ok"}', headers=[("cache-control", "no-store")])


async def metrics(state: GatewayState, _request: HttpRequest) -> HttpResponse:
    """Answer with the counters in Prometheus' text form."""
    return HttpResponse(200, state.metrics.render(), content_type=CONTENT_TYPE)
