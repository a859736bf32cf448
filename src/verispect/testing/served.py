"""A real gateway in a process of its own, for end-to-end tests: commands as a user types them.

It refuses to share anything with the tests but the network and the folder: what a test sees is
what a caller sees.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.result import VerifiedReceipt
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.client.session import Exchange, now_milliseconds, verify_exchange

COMMAND: Final = (sys.executable, "-m", "verispect.cli.main")
"""How `verispect` is run."""

_STOP_SECONDS: Final = 30.0
_FETCH_SECONDS: Final = 30.0


class ServedGateway:
    """`verispect serve` on a free loopback port, with keys, models and state in one folder.

    Args:
        home: the folder; keys are made in it where there are none.
        arguments: further arguments of `serve`.
    """

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.url = ""
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        if not (home / "keys").exists():
            self.run("keys", "new", "--issuer", "https://tests.example")

    def run(self, *arguments: str) -> str:
        """Run one command to its end and return what it printed."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"verispect {arguments[0]} failed: {done.stderr}")
        return done.stdout

    def start(self) -> None:
        """Serve, and return once the port is open."""
        with (self.home / "serve.log").open("a") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0", *self._arguments],
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "http://" not in line:
            raise AssertionError(f"the gateway did not start: {self.log()[-2000:]}")
        self.url = line.split()[-1]

    def await_ready(self) -> None:
        """Return once requests are answered: the receipts of interrupted streams are there then.

        The port is open before that, and who connects meanwhile waits.
        """
        httpx.get(self.url + "/healthz", timeout=_FETCH_SECONDS).raise_for_status()

    @property
    def process_id(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_STOP_SECONDS)

    def stop(self) -> None:
        """Ask the process to end, and wait."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_STOP_SECONDS)

    def log(self) -> str:
        """Return what the server wrote to its standard error so far."""
        return (self.home / "serve.log").read_text()

    def trusted_root(self) -> TrustedRoot:
        """Return a root that trusts this gateway's key and knows its models."""
        path = self.home / "trusted-root.json"
        registry = ("--registry", str(self.home / "models"))
        self.run("keys", "trusted-root", "--out", str(path), *registry)
        return TrustedRoot.from_json(path.read_bytes())

    def receipt(self, identifier: str) -> bytes:
        """Fetch a receipt, as anyone may."""
        return self._fetch(f"/v1/receipts/{identifier}", {})

    def openings(self, inference: str, opening_key: str) -> bytes:
        """Fetch the openings of an inference, as only its caller may."""
        headers = {"verispect-opening-key": opening_key}
        return self._fetch(f"/v1/receipts/{inference}/openings", headers)

    def _fetch(self, path: str, headers: dict[str, str]) -> bytes:
        response = httpx.get(self.url + path, headers=headers, timeout=_FETCH_SECONDS)
        response.raise_for_status()
        return response.content

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "VERISPECT_HOME": str(self.home)}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()


def verify_signed(exchange: Exchange, trusted_root: TrustedRoot) -> VerifiedReceipt:
    """Verify an exchange offline under the policy `signed`, now."""
    return verify_exchange(
        exchange, trusted_root=trusted_root, policy=SIGNED, now=now_milliseconds()
    )
