"""A service behind `verispect serve --log`: a prompt changed behind the log's back shows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow

SECONDS = 120.0
POLICY = """
version = 1
name = "demanding"
service_logged = true
[claims]
model = ["asserted"]
input = ["asserted"]
output = ["asserted"]
"""


class Operator:
    """One home of keys, models and services, and the command line above it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "VERISPECT_HOME": str(folder / "home")}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "verispect.cli.main", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def done(self, *words: str) -> str:
        outcome = self.run(*words)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    @contextmanager
    def serve(self, *words: str) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as place:
            port = place.getsockname()[1]
        with (self.folder / "serve.log").open("ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "verispect.cli.main", "serve"),
                    *(f"--port={port}", "--threads=1", *words),
                ],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        address = f"http://127.0.0.1:{port}"
        try:
            self._wait(process, address)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=SECONDS)

    def _wait(self, process: subprocess.Popen[bytes], address: str) -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert process.poll() is None, (self.folder / "serve.log").read_text()
            try:
                if httpx.get(f"{address}/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server did not start")

    def ask(self, address: str, save: str) -> None:
        """Ask the service until the log has its version, and keep what proves the answer."""
        words = ["ask", "Hello", "--model=service:shop", "--max-tokens=4", "--temperature=0"]
        deadline = time.monotonic() + SECONDS
        while True:
            outcome = self.run(
                *words, f"--url={address}", "--trusted-root=root.json", f"--save={save}"
            )
            if outcome.returncode == 0:
                return
            assert "503" in outcome.stderr, outcome.stderr
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_prompt_changed_behind_the_logs_back_is_an_alert_and_fails(tmp_path: Path) -> None:
    """The version in the log passes; one that answered without the log is named and refused."""
    operator = Operator(tmp_path)
    (tmp_path / "one.txt").write_text("You sell umbrellas.\n")
    (tmp_path / "two.txt").write_text("You sell nothing.\n")
    (tmp_path / "demanding.toml").write_text(POLICY)
    operator.done("keys", "new", "--issuer=operator.example")
    operator.done("models", "add", "--name=smollm2", "--catalogue=smollm2-135m-instruct")
    operator.done(
        "services", "add", "shop", "--model=smollm2", "--system-prompt=one.txt",
        "--disclose=everyone",
    )  # fmt: skip
    operator.done("keys", "trusted-root", "--out=root.json")
    with operator.serve("--log=log", "--log-keys=log-keys") as address:
        operator.ask(address, "first")
    # From here on the operator answers with another prompt and leaves its log as it is.
    operator.done("services", "update", "shop", "--system-prompt=two.txt")
    with operator.serve() as address:
        operator.ask(address, "second")
    history = ["history", "shop", "--log=log", "--trusted-root=root.json", "--out=history.json"]
    operator.done(*history, "--receipt=first/receipt.cose")
    alerted = operator.run(*history, "--receipt=second/receipt.cose")
    assert alerted.returncode == 1
    assert "ALERT" in alerted.stderr
    assert "service-unlogged" in alerted.stderr
    for name, code in (("first", 0), ("second", 1)):
        judged = operator.run(
            "verify", f"{name}/receipt.cose", "--policy=demanding.toml",
            "--trusted-root=root.json", "--history=history.json",
            f"--openings={name}/openings.cbor", f"--request={name}/request.json",
            f"--response={name}/response.json",
        )  # fmt: skip
        assert judged.returncode == code, judged.stderr + judged.stdout
        assert code == 0 or "service-unlogged" in judged.stderr
    # Without the history nobody can tell, and a policy that demands it does not pass.
    blind = operator.run(
        "verify", "first/receipt.cose", "--policy=demanding.toml", "--trusted-root=root.json"
    )
    assert blind.returncode == 1
