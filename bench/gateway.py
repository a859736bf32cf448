"""What the gateway costs: CPU per request, added latency, throughput, and LiteLLM beside it.

The model is a multilayer perceptron (30-32-16-2) from scikit-learn's breast cancer data, trained
here with a fixed seed: about 30 microseconds a run, so that what is measured is the gateway. One
worker, receipts signed and durable (a real disk, fsync), 16 callers on keep-alive connections,
load made in a process of its own (`gateway_load.py`) on the same machine.

- `cpu_microseconds_per_request`: user and system time of the gateway's process, all threads, from
  `/proc`, over a closed loop of 16 callers. It does not hold the kernel's own writing to disk.
- `added_…_seconds`: the latency of the gateway less that of the same server, dispatcher, codec,
  engine and model without any receipt (`gateway_unreceipted.py`), both under the same paced load:
  16 callers that together begin requests at half of the rate at which the gateway saturates. A
  latency counts from when a request was due. What is added is, above all, the wait for the disk.
- `requests_per_second`: a closed loop of 16 callers, so each is always waiting for an answer.
- `over_litellm_ratio`, where `make bench-litellm` has installed LiteLLM: the tensor requests a
  second above, each computed, signed and durable, against the chats a second of LiteLLM's proxy in
  front of a mock upstream (one worker, master key, no callbacks, no telemetry, no retries).
- `remote_chats_per_second` is the like-for-like figure: the same chat through the gateway, receipts
  on, and through LiteLLM's proxy, both in front of the same mock upstream.

The values are medians of rounds that alternate between the servers.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report import figure, progress

HERE = Path(__file__).resolve().parent
CALLERS = 16
ROUNDS = 5
SECONDS = 4.0
WARM_UP_SECONDS = 1.0
SEED = 20260101
FEATURES = 30
MODEL, REMOTE = "tiny-mlp", "mock"
COMMAND = [sys.executable, "-m", "verispect.cli.main"]
LITELLM = HERE.parent / ".venv-litellm" / "bin" / "litellm"
MASTER_KEY = "sk-bench"
TICKS = os.sysconf("SC_CLK_TCK")

CHAT = {
    "model": REMOTE,
    "messages": [
        {"role": "system", "content": "You are a careful assistant."},
        {"role": "user", "content": "Name three primary colours."},
    ],
    "temperature": 0.5,
    "max_tokens": 64,
}


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str, process: subprocess.Popen[str], port: int) -> None:
        self.name = name
        self.process = process
        self.port = port

    def cpu_seconds(self) -> float:
        """Return user and system time so far, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def load(self, request: bytes, *, rate: float = 0.0, seconds: float = SECONDS) -> Any:
        """Put a load on it and return what the load generator saw, with the CPU it took."""
        task = {
            "host": "127.0.0.1",
            "port": self.port,
            "request": base64.b64encode(request).decode(),
            "callers": CALLERS,
            "seconds": seconds,
            "rate": rate,
        }
        before = self.cpu_seconds()
        done = subprocess.run(
            [sys.executable, str(HERE / "gateway_load.py")],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"bench: {self.name}: {done.stderr.strip()}")
        result = json.loads(done.stdout)
        result["cpu"] = (self.cpu_seconds() - before) / result["requests"]
        result["rate"] = result["requests"] / result["seconds"]
        if result["failures"]:
            sys.exit(f"bench: {self.name} refused {result['failures']} requests")
        return result


@contextlib.contextmanager
def serving(name: str, command: list[str], **environment: str) -> Iterator[Server]:
    """Run a server that prints its address first."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http://" not in line:
            sys.exit(f"bench: {name} did not start")
        yield Server(name, process, int(line.rpartition(":")[2]))
    finally:
        process.terminate()
        process.wait(timeout=30)


def tiny_model() -> bytes:
    """Train the model and return it as ONNX."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.datasets import load_breast_cancer
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    data = load_breast_cancer()
    classifier = MLPClassifier((32, 16), random_state=SEED, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(StandardScaler().fit_transform(data.data).astype("float32"), data.target)
    model = convert_sklearn(
        classifier,
        name="classifier",
        initial_types=[("input", FloatTensorType([None, FEATURES]))],
        options={id(classifier): {"zipmap": False}},
        target_opset={"": 18, "ai.onnx.ml": 3},
    )
    return bytes(model.SerializeToString(deterministic=True))


def verispect(home: Path, *arguments: str) -> None:
    """Run one command of ours, quietly."""
    subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "VERISPECT_HOME": str(home)},
        check=True,
        capture_output=True,
    )


def post(path: str, body: bytes, **headers: str) -> bytes:
    """Return a whole HTTP request."""
    fields = {"host": "127.0.0.1", "content-type": "application/json", **headers}
    fields["content-length"] = str(len(body))
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_request() -> bytes:
    """Return an Open Inference Protocol request in JSON."""
    values = [round(0.1 * number - 1.5, 3) for number in range(FEATURES)]
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, FEATURES], "data": values}
    return post(f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode())


def binary_request() -> bytes:
    """Return the same request with binary tensors both ways."""
    values = [0.1 * number - 1.5 for number in range(FEATURES)]
    data = struct.pack(f"<{FEATURES}f", *values)
    tensor = {
        "name": "input",
        "datatype": "FP32",
        "shape": [1, FEATURES],
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = {"inference-header-content-length": str(len(head))}
    return post(f"/v2/models/{MODEL}/infer", head + data, **length)


def chat_request() -> bytes:
    """Return the chat request, the same for LiteLLM and for us."""
    body = json.dumps(CHAT).encode()
    return post("/v1/chat/completions", body, authorization=f"Bearer {MASTER_KEY}")


def measure_tensors(ours: Server, plain: Server, request: bytes, suffix: str = "") -> float:
    """Print the figures of one form of request and return the requests a second."""
    for server in (ours, plain):
        server.load(request, seconds=WARM_UP_SECONDS)
    closed, closed_plain = [], []
    for number in range(ROUNDS):
        progress(f"closed loop{suffix}, round {number + 1} of {ROUNDS}")
        closed.append(ours.load(request))
        closed_plain.append(plain.load(request))
    rate = statistics.median(each["rate"] for each in closed)
    paced, paced_plain = [], []
    for number in range(ROUNDS):
        progress(f"paced{suffix}, round {number + 1} of {ROUNDS}")
        paced.append(ours.load(request, rate=rate / 2))
        paced_plain.append(plain.load(request, rate=rate / 2))

    def middle(rounds: list[Any], key: str) -> float:
        return statistics.median(each[key] for each in rounds)

    figure(
        f"gateway.cpu_microseconds_per_request{suffix}",
        middle(closed, "cpu") * 1e6,
        "us",
        most=250,
        without_receipts=round(middle(closed_plain, "cpu") * 1e6, 1),
        at_half_load=round(middle(paced, "cpu") * 1e6, 1),
        callers=CALLERS,
    )
    for key, most in (("median", 0.0015), ("p99", 0.006)):
        figure(
            f"gateway.added_{key}_seconds{suffix}",
            middle(paced, key) - middle(paced_plain, key),
            "s",
            most=most,
            with_receipts=round(middle(paced, key), 6),
            without_receipts=round(middle(paced_plain, key), 6),
            paced_requests_per_second=round(rate / 2),
            callers=CALLERS,
        )
    figure(
        f"gateway.requests_per_second{suffix}",
        rate,
        "1/s",
        without_receipts=round(middle(closed_plain, "rate"), 1),
        median_seconds=round(middle(closed, "median"), 6),
        p99_seconds=round(middle(closed, "p99"), 6),
        callers=CALLERS,
    )
    return rate


@contextlib.contextmanager
def litellm(folder: Path, upstream: Server) -> Iterator[Server]:
    """Run LiteLLM's proxy in front of `upstream`, as lean as it can be configured."""
    configuration = {
        "model_list": [
            {
                "model_name": REMOTE,
                "litellm_params": {
                    "model": "openai/mock",
                    "api_base": f"http://127.0.0.1:{upstream.port}/v1",
                    "api_key": "none",
                },
            }
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 0, "callbacks": []},
        "router_settings": {"num_retries": 0},
        "general_settings": {"master_key": MASTER_KEY},
    }
    path = folder / "litellm.json"
    path.write_text(json.dumps(configuration))  # JSON is YAML.
    port = free_port()
    command = [str(LITELLM), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "PATH": f"{LITELLM.parent}:{os.environ['PATH']}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
    }
    with (folder / "litellm.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--num_workers", "1", "--telemetry", "False"],
            env=environment,
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        await_port(process, port, seconds=120)
        yield Server("litellm", process, port)
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def await_port(process: subprocess.Popen[str], port: int, *, seconds: float) -> None:
    import socket

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.2)
    sys.exit("bench: litellm did not start")


def litellm_version() -> str:
    python = LITELLM.with_name("python")
    program = "import importlib.metadata as m; print(m.version('litellm'))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def measure_litellm(folder: Path, ours: Server, upstream: Server, tensors: float) -> None:
    """Print what both proxies reach in front of one upstream."""
    request = chat_request()
    progress("starting litellm")
    with litellm(folder, upstream) as peer:
        for server in (ours, peer):
            server.load(request, seconds=2 * WARM_UP_SECONDS)
        mine, theirs = [], []
        for number in range(ROUNDS):
            progress(f"chat through both proxies, round {number + 1} of {ROUNDS}")
            mine.append(ours.load(request))
            theirs.append(peer.load(request))
    rate = statistics.median(each["rate"] for each in mine)
    peer_rate = statistics.median(each["rate"] for each in theirs)
    further = {"peer": f"litellm {litellm_version()}", "peer_value": peer_rate}
    figure(
        "gateway.remote_chats_per_second",
        rate,
        "1/s",
        callers=CALLERS,
        cpu_microseconds=round(statistics.median(each["cpu"] for each in mine) * 1e6),
        peer_cpu_microseconds=round(statistics.median(each["cpu"] for each in theirs) * 1e6),
        **further,
    )
    figure(
        "gateway.over_litellm_ratio",
        tensors / peer_rate,
        "x",
        least=30,
        requests_per_second=round(tensors, 1),
        litellm=further["peer"],
        litellm_requests_per_second=round(peer_rate, 1),
    )


def main() -> None:
    """Measure and print."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Beside this file: the system's own folder for such things may be in memory.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=results)))
        progress("training the model")
        (folder / "tiny.onnx").write_bytes(tiny_model())
        upstream = stack.enter_context(
            serving("mock upstream", [sys.executable, str(HERE / "mock_upstream.py")])
        )
        verispect(folder, "keys", "new", "--issuer", "https://bench.example")
        verispect(folder, "models", "add", "--name", MODEL, "--file", str(folder / "tiny.onnx"))
        registry = str(folder / "models")
        plain = [sys.executable, str(HERE / "gateway_unreceipted.py"), registry]
        without = stack.enter_context(serving("without receipts", plain))
        address = f"http://127.0.0.1:{upstream.port}/v1"
        remote = ["--remote", address, "--upstream-model", "mock"]
        verispect(folder, "models", "add", "--name", REMOTE, *remote)
        ours = stack.enter_context(
            serving("gateway", [*COMMAND, "serve", "--port", "0"], VERISPECT_HOME=str(folder))
        )
        rate = measure_tensors(ours, without, json_request())
        measure_tensors(ours, without, binary_request(), "_binary")
        if LITELLM.exists():
            measure_litellm(folder, ours, upstream, rate)
        else:
            progress("litellm is not installed (make bench-litellm): no comparison")


if __name__ == "__main__":
    main()
