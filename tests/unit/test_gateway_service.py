"""A gateway put together from a key, a store and a registry; killed, restarted, in two workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from onnx_graphs import linear

from verispect.attesters.signer import Issuer
from verispect.cli.main import main
from verispect.core.commitments import Part, decode_openings
from verispect.core.errors import StoreError
from verispect.core.receipt import InferenceReceipt
from verispect.gateway.service import Service, ServiceConfiguration, _opening_secret
from verispect.models.registration import register_file
from verispect.models.registry import ModelRegistry

ROW = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def configuration(tmp_path: Path) -> ServiceConfiguration:
    Issuer.create(tmp_path / "keys", name="tests", development=False, now=0)
    (tmp_path / "linear.onnx").write_bytes(linear())
    register_file(ModelRegistry(tmp_path / "models"), "linear", tmp_path / "linear.onnx")
    return ServiceConfiguration(
        keys=str(tmp_path / "keys"),
        state=str(tmp_path / "state"),
        registry=str(tmp_path / "models"),
    )


def serve_arguments(configuration: ServiceConfiguration, *more: str) -> list[str]:
    places = {name: getattr(configuration, name) for name in ("keys", "state", "registry")}
    return ["serve", "--port=0", *(f"--{name}={at}" for name, at in places.items()), *more]


_STREAM = """
import asyncio, os, signal, sys, json
from verispect.core.commitments import Part
from verispect.engines.interface import Lane
from verispect.gateway.http import HttpRequest
from verispect.gateway.service import Service, ServiceConfiguration
from verispect.testing.echo_model import EchoLanguageModel

async def stream():
    service = Service(ServiceConfiguration(**json.loads(sys.argv[1])))
    request = HttpRequest(method="POST", path="/", query={}, headers={}, body=b"",
                          disconnected=asyncio.Event(), received_at=1_700_000_000_000)
    inference = service.recorder.begin(request, operation="chat.completions",
        served=service.state.pool.find("linear"), requested_model="linear",
        lane=Lane.DETERMINISTIC, assurance=None)
    inference.use_engine(EchoLanguageModel().identity)
    inference.commit(Part.MESSAGES, [{"role": "user", "content": "hi"}])
    for number in range(40):
        await inference.chain(b'{"chunk": %d}' % number)
    print(inference.identifier, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(stream())
"""


async def test_killed_stream_gets_its_receipt_at_the_next_start(
    configuration: ServiceConfiguration,
) -> None:
    """What was checkpointed is signed as interrupted, once, with its openings."""
    died = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _STREAM, configuration.to_json()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    service = Service(configuration)
    try:
        assert await service.recover() == 1
        assert await service.recover() == 0
        identifier = bytes.fromhex(died.stdout.strip())
        stored = service.store.find(identifier)
        assert stored is not None
        statement = InferenceReceipt.parse(stored.receipt).unverified_statement
        assert list(statement.finish_reasons) == ["interrupted"]
        assert statement.stream is not None
        assert statement.stream.chunks == 32
        assert Part.OUTPUT not in statement.commitments
        openings = service.store.openings(identifier)
        assert openings is not None
        assert decode_openings(openings).keys() == {Part.MESSAGES}
    finally:
        await service.close()


def test_opening_secret_is_made_once_by_many(tmp_path: Path) -> None:
    """Processes that start together agree on one secret, readable by its owner only."""
    program = (
        "import sys; from pathlib import Path; from verispect.gateway.service import "
        "_opening_secret; print(_opening_secret(Path(sys.argv[1])).hex())"
    )
    state = tmp_path / "state"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(state)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    secrets = {process.communicate()[0].strip() for process in running}
    assert len(secrets) == 1
    assert len(bytes.fromhex(secrets.pop())) == 32
    (path,) = state.iterdir()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_damaged_opening_secret_is_an_error(tmp_path: Path, content: bytes) -> None:
    """A secret that is not whole would open nothing that went out before."""
    (tmp_path / "opening.secret").write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        _opening_secret(tmp_path)


def test_two_workers_share_one_gapless_sequence(configuration: ServiceConfiguration) -> None:
    """Two processes on one port and one store number receipts without gap or repeat."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "verispect.cli.main",
            *serve_arguments(configuration, "--workers=2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]

        def ask(_number: int) -> int:
            # A connection each, so that both workers get some.
            answer = httpx.post(f"{url}/v2/models/linear/infer", json=ROW, timeout=60)
            parameters = answer.raise_for_status().json()["parameters"]
            path = f"{url}/v1/receipts/{parameters['verispect_receipt_id']}?format=json"
            sequence: int = httpx.get(path, timeout=60).json()["sequence"]
            return sequence

        with ThreadPoolExecutor(4) as callers:
            sequences = list(callers.map(ask, range(24)))
        assert sorted(sequences) == list(range(1, 25))
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("missing", "code", "words"),
    [("keys", 4, "issuer.pem"), ("registry", 2, "no model is registered")],
)
def test_serve_without_what_it_needs_is_told_once(
    configuration: ServiceConfiguration,
    capsys: Capture,
    tmp_path: Path,
    missing: str,
    code: int,
    words: str,
    workers: str,
) -> None:
    """A missing key or an empty registry is an error before any worker starts."""
    nowhere = f"--{missing}={tmp_path / 'nowhere'}"
    assert main(serve_arguments(configuration, nowhere, f"--workers={workers}")) == code
    output = capsys.readouterr()
    assert words in output.err
    assert output.err.startswith("verispect: error: ")
    assert "listening" not in output.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--workers=0"], 2),
        (["--threads=-1"], 2),
        (["--openings-hours=-1"], 2),
        (["--port=99999999"], 4),
        (["--host=no.such.host.invalid"], 4),
        (["--host=a..b"], 4),
        (["--model=nobody"], 4),
        (["--upstream-key=linear"], 2),
        (["--upstream-key=linear=VERISPECT_NO_SUCH_VARIABLE"], 2),
    ],
)
def test_wrong_option_of_serve_is_told(
    configuration: ServiceConfiguration, capsys: Capture, arguments: list[str], code: int
) -> None:
    """Every mistyped option ends the command with its code and one error."""
    assert main(serve_arguments(configuration, *arguments)) == code
    assert capsys.readouterr().err.startswith("verispect: error: ")


def test_busy_port_is_told(configuration: ServiceConfiguration, capsys: Capture) -> None:
    """Where somebody listens already, the command says so."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert main(serve_arguments(configuration, f"--port={port}")) == 4
    told = capsys.readouterr().err
    assert "in use" in told
    assert json.dumps(port) in told
