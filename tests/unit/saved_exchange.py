"""What `verispect ask --save` leaves, of one streamed and one whole answer, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from running_gateway import run_gateway

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.cli.ask import save_exchange
from verispect.client.session import GatewayClient
from verispect.testing.echo_model import EchoLanguageModel

PROMPT = "quokka wombat numbat"


@dataclass(frozen=True)
class Saved:
    """A directory with `whole/`, `streamed/` and `root.json`."""

    path: Path

    def arguments(self, kind: str = "whole", **changes: str | None) -> list[str]:
        """Return the arguments of `verispect verify`, some replaced or, with None, left out."""
        folder = self.path / kind
        response = "response.json" if kind == "whole" else "response.sse"
        options: dict[str, str | None] = {
            "receipt": str(folder / "receipt.cose"),
            "policy": "signed",
            "trusted-root": str(self.path / "root.json"),
            "openings": str(folder / "openings.cbor"),
            "request": str(folder / "request.json"),
            "response": str(folder / response),
            "nonce": (folder / "nonce.txt").read_text().strip(),
        }
        options.update({name.replace("_", "-"): value for name, value in changes.items()})
        receipt = options.pop("receipt")
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        return ["verify", str(receipt), *given]


def save(directory: Path) -> Saved:
    """Ask a gateway twice and keep everything."""
    with run_gateway(directory / "gateway", EchoLanguageModel()) as gateway:
        issuer = gateway.state.recorder.issuer
        with GatewayClient(gateway.base_url) as client:
            for kind in ("whole", "streamed"):
                exchange = client.chat(
                    "echo",
                    [{"role": "user", "content": PROMPT}],
                    stream=kind == "streamed",
                    options={"temperature": 0},
                )
                save_exchange(exchange, directory / kind, stream=kind == "streamed")
    (directory / "root.json").write_bytes(TrustedRoot([issuer.trusted_key()]).to_json())
    return Saved(directory)
