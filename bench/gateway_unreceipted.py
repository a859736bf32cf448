"""The gateway without its receipts: what `bench/gateway.py` compares with. Never to be served.

Same server, same dispatcher, same codec, same engine and model; only what makes a receipt is left
out: no nonce, no commitments, no signature, no store, and no receipt in the answer.

    python bench/gateway_unreceipted.py REGISTRY
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from verispect.gateway import open_inference
from verispect.gateway.app import create_app
from verispect.gateway.connection import make_protocol
from verispect.gateway.http import HttpRequest, HttpResponse
from verispect.gateway.limits import Limits
from verispect.gateway.open_inference_codec import parse, render, render_outputs
from verispect.gateway.pool import RegistryPool
from verispect.gateway.serving import ServedModel
from verispect.gateway.state import GatewayState
from verispect.models.registry import ModelRegistry


async def infer_without_receipt(
    state: GatewayState, request: HttpRequest, served: ServedModel, name: str
) -> HttpResponse:
    """Run the model once and answer with its outputs."""
    asked = parse(request.body, request.headers)
    model = await state.pool.tensor(served)
    outputs = await model.infer(asked.inputs, asked.outputs)
    body, header_length = render(
        model_name=name,
        model_version=open_inference.MODEL_VERSION,
        identifier=asked.identifier,
        parameters={},
        outputs=render_outputs(outputs, asked),
    )
    if header_length is None:
        return HttpResponse(200, body)
    headers = [("inference-header-content-length", str(header_length))]
    return HttpResponse(200, body, content_type="application/octet-stream", headers=headers)


def main() -> None:
    """Serve on a free loopback port."""
    open_inference.infer = infer_without_receipt
    without: Any = None
    state = GatewayState(RegistryPool(ModelRegistry(Path(sys.argv[1]))), recorder=without)
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        create_app(state),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        loop="uvloop",
        http=make_protocol(Limits()),
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
