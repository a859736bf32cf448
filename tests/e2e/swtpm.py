"""A real software TPM for tests: its own authority, its own folder, two free loopback ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from verispect.evidence.pem import certificates_of_pem

TOOLS = ("swtpm", "swtpm_setup", "swtpm_localca", "tpm2_quote")
START_SECONDS = 20.0


@dataclass(frozen=True)
class SoftwareTpm:
    """One that runs."""

    tcti: str
    issuers: tuple[bytes, ...]
    """Of the endorsement certificate: the local authority, then its root."""


def require_swtpm() -> None:
    """Skip the test loudly, or fail it in CI, where the Debian packages are not installed."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        message = f"no {', '.join(missing)}: run make system-packages as root"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def running_swtpm(folder: Path) -> Iterator[SoftwareTpm]:
    """Make a TPM with an endorsement certificate in `folder`, run it, and end it."""
    folder = folder.resolve()  # A relative path makes it fail later, not at once.
    state, authority = folder / "state", folder / "authority"
    state.mkdir(parents=True)
    authority.mkdir()
    _manufacture(folder, state, authority)
    server, control = _free_neighbours()
    command = [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"),
        *("--server", f"type=tcp,port={server},bindaddr=127.0.0.1"),
        *("--ctrl", f"type=tcp,port={control},bindaddr=127.0.0.1"),
        *("--flags", "not-need-init,startup-clear"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await_port(control, process)
        files = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
        yield SoftwareTpm(
            tcti=f"swtpm:host=127.0.0.1,port={server}",
            issuers=tuple(
                certificates_of_pem((authority / file).read_bytes())[0] for file in files
            ),
        )
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _manufacture(folder: Path, state: Path, authority: Path) -> None:
    (folder / "localca.conf").write_text(
        f"statedir = {authority}\nsigningkey = {authority}/signkey.pem\n"
        f"issuercert = {authority}/issuercert.pem\ncertserial = {authority}/certserial\n"
    )
    (folder / "localca.options").write_text("--platform-model software\n")
    (folder / "setup.conf").write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
        f"create_certs_tool_config = {folder}/localca.conf\n"
        f"create_certs_tool_options = {folder}/localca.options\n"
    )
    command = ["swtpm_setup", "--tpm2", "--tpm-state", str(state), "--create-ek-cert"]
    subprocess.run(
        [*command, "--config", str(folder / "setup.conf")],
        check=True,
        capture_output=True,
        timeout=120,
    )


def _free_neighbours() -> tuple[int, int]:
    """Return two free ports in a row: the TCTI takes the second to be the control port."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port, port + 1
    raise RuntimeError("no two free ports in a row")


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"swtpm ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("swtpm did not start")
