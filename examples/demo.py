"""The main job from end to end, on real models: ask, get receipts, verify offline, be refused.

Starts a gateway on a free loopback port with a language model (SmolLM2-135M-Instruct), a tensor
model (Magika, which recognises file types) and one whose answers are proven (of RapidOCR: is a line
of text upside down), asks all three, verifies the receipts in a process without a
network, flips one bit of an answer and changes one number of a proven one. Run it with `make demo`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from verispect.cli.ask import save_exchange
from verispect.client.session import Exchange, GatewayClient
from verispect.core.receipt import InferenceReceipt

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("VERISPECT_DEMO_HOME") or HERE.parent / ".demo")
ROOT = HOME / "trusted-root.json"
COMMAND = [sys.executable, "-m", "verispect.cli.main"]
LANGUAGE_MODEL, TENSOR_MODEL = "smollm2-135m-instruct", "magika"
PROVEN_MODEL = "rapidocr-cls"
LINE_SHAPE = (3, 48, 192)
START_SECONDS = 60.0
PROOF_SECONDS = 300.0

# What verifies the proof may import nothing that an extra brings.
BASE_INSTALL = (
    "import sys;"
    "sys.modules.update(dict.fromkeys(['numba', 'onnx', 'onnxruntime', 'xllamacpp', 'httpx',"
    " 'msgspec', 'uvicorn']));"
    "from verispect.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def say(text: str = "") -> None:
    print(text, flush=True)


def heading(number: int, text: str) -> None:
    say(f"\n{number}. {text}")


def verispect(*arguments: str) -> None:
    """Run one command as a user would, and stop the demonstration if it fails."""
    say(f"   $ verispect {' '.join(arguments)}")
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        say(f"     {line.rstrip()}")
    if process.wait() != 0:
        sys.exit(1)


def environment() -> dict[str, str]:
    return {**os.environ, "VERISPECT_HOME": str(HOME)}


def prepare() -> None:
    """Make the key, register both models, and decide whom to trust."""
    if not (HOME / "keys").exists():
        verispect("keys", "new", "--issuer", "https://demo.example")
    registered = HOME / "models" / "names"
    for model in (LANGUAGE_MODEL, TENSOR_MODEL):
        if not (registered / f"{model}.json").exists():
            verispect("models", "add", "--name", model, "--catalogue", model, "--qualify")
    if not (registered / f"{PROVEN_MODEL}.json").exists():
        make_provable()
    verispect("keys", "trusted-root", "--out", str(ROOT), "--registry", str(HOME / "models"))


def line_images(seed: int, count: int) -> Any:
    """Draw images with the structure of a line of text, from -1 to 1."""
    rng = np.random.default_rng(seed)
    channels, height, width = LINE_SHAPE
    strokes = rng.normal(size=(count, channels, height // 8, width // 8))
    wide = strokes.repeat(8, axis=2).repeat(8, axis=3)
    fine = rng.normal(size=(count, *LINE_SHAPE))
    return np.clip(wide / 2 + 0.15 * fine, -1, 1).astype(np.float32)


def make_provable() -> None:
    """Import the ONNX model as integers, commit to its weights, and register it."""
    package = distribution("rapidocr-onnxruntime")
    onnx = package.locate_file("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    samples, folder = HOME / "samples.npy", HOME / "provable"
    np.save(samples, line_images(1, 16))
    shape = ",".join(map(str, LINE_SHAPE))
    source = [str(onnx), "--calibration", str(samples), "--input-shape", shape]
    verispect("proof", "import", *source, "--out", str(folder))
    verispect("proof", "estimate", str(folder))
    verispect("models", "add", "--name", PROVEN_MODEL, "--integer", str(folder))


def start_gateway() -> tuple[subprocess.Popen[str], str]:
    """Start the gateway and return it with its address."""
    say("   $ verispect serve --port 0")
    gateway = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert gateway.stdout is not None
    line = gateway.stdout.readline()
    if "http://" not in line:
        sys.exit("the gateway did not start")
    url = line.split()[-1]
    say(f"   listening on {url}")
    return gateway, url


def file_features(path: Path) -> list[int]:
    """Return the first and last 1,024 bytes as Magika wants them, padded with 256."""
    content = path.read_bytes()
    start = list(content[:4096].lstrip()[:1024])
    end = list(content[-4096:].rstrip()[-1024:])
    return start + [256] * (1024 - len(start)) + [256] * (1024 - len(end)) + end


def file_type(exchange: Exchange) -> tuple[str, float]:
    """Return the most likely file type of a Magika answer, and its score."""
    package = distribution("magika").locate_file("magika/models/standard_v3_3/config.min.json")
    labels: list[str] = json.loads(Path(str(package)).read_bytes())["target_labels_space"]
    scores: list[float] = json.loads(exchange.response)["outputs"][0]["data"]
    best = max(range(len(scores)), key=scores.__getitem__)
    return labels[best], scores[best]


def ask_both(url: str) -> None:
    """Ask the language model, streamed, and the tensor model; keep what proves the answers."""
    with GatewayClient(url) as client:
        heading(2, f"ask {LANGUAGE_MODEL}, streamed, in the deterministic lane")
        question = "What is the capital of France? Answer in one sentence."
        say(
            f"   > {question}\n   < ",
        )
        answer = client.chat(
            LANGUAGE_MODEL,
            [{"role": "user", "content": question}],
            stream=True,
            lane="deterministic",
            options={"temperature": 0, "max_completion_tokens": 40},
            on_text=lambda text: print(text, end="", flush=True),
        )
        say()
        save_exchange(answer, HOME / "chat", stream=True)
        heading(3, f"ask {TENSOR_MODEL} what kind of file this program is")
        tensor: dict[str, Any] = {
            "name": "bytes",
            "datatype": "INT32",
            "shape": [1, 2048],
            "data": file_features(Path(__file__)),
        }
        answer = client.exchange(
            f"/v2/models/{TENSOR_MODEL}/infer", {"inputs": [tensor]}, "signed", "deterministic"
        )
        label, score = file_type(answer)
        say(f"   < {label} ({score:.1%})")
        save_exchange(answer, HOME / "tensor", stream=False)


def ask_proven(url: str) -> None:
    """Ask with assurance `proven`, wait for the proof, and keep what proves the answer."""
    heading(4, f"ask {PROVEN_MODEL}, and have the answer proven")
    tensor: dict[str, Any] = {
        "name": "input",
        "datatype": "FP32",
        "shape": [1, *LINE_SHAPE],
        "data": line_images(2, 1).ravel().tolist(),
    }
    with GatewayClient(url) as client:
        started = time.monotonic()
        answer = client.exchange(
            f"/v2/models/{PROVEN_MODEL}/infer", {"inputs": [tensor]}, "proven", "deterministic"
        )
        answered = time.monotonic() - started
    scores = json.loads(answer.response)["outputs"][0]["data"]
    shown = ", ".join(f"{score:.4f}" for score in scores)
    say(f"   < {shown} (upright, upside down), after {answered:.2f} s; the proof is promised")
    where = f"{url}/v1/receipts/{InferenceReceipt.parse(answer.receipt).receipt_id.hex()}"
    status: dict[str, Any] = {"state": "queued"}
    while status["state"] in ("prepared", "queued", "running"):
        if time.monotonic() - started > PROOF_SECONDS:
            break
        time.sleep(0.1)
        status = httpx.get(f"{where}/proof").json()
    if status["state"] != "done":
        sys.exit(f"the proof is {status['state']}: {status.get('detail')}")
    receipt = httpx.get(f"{where}?evidence=attached").content
    size = sum(len(entry.body) for entry in InferenceReceipt.parse(receipt).evidence)
    waited = time.monotonic() - started
    say(f"   the proof came after {waited:.1f} s (loading, committing, proving), {size:,} bytes")
    save_exchange(replace(answer, receipt=receipt), HOME / "proven", stream=False)


def change_one_value(response: Path) -> Path:
    """Write a copy of the answer in which one number differs in its last place."""
    document = json.loads(response.read_bytes())
    data = document["outputs"][0]["data"]
    data[0] = float(np.nextafter(np.float32(data[0]), np.float32(2)))
    changed = response.with_name("changed.json")
    changed.write_text(json.dumps(document))
    return changed


def offline() -> list[str]:
    """Return what runs a command without any network, where this system allows it."""
    wrapper = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare"):
        tried = subprocess.run([*wrapper, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return wrapper
    return []


def verify(folder: Path, response: Path, *, whole: bool, policy: str = "signed") -> int:
    """Run `verispect verify` in a process of its own; print all it says, or what decides."""
    arguments = [
        "verify",
        str(folder / "receipt.cose"),
        f"--policy={policy}",
        f"--trusted-root={ROOT}",
        f"--openings={folder / 'openings.cbor'}",
        f"--response={response}",
        f"--nonce={(folder / 'nonce.txt').read_text().strip()}",
    ]
    shown = " ".join(argument.replace(f"{HOME}/", "") for argument in arguments)
    say(f"   $ verispect {shown}")
    command = [sys.executable, "-c", BASE_INSTALL] if policy == "proven" else COMMAND
    done = subprocess.run(
        [*offline(), *command, *arguments], capture_output=True, text=True, check=False
    )
    for line in (done.stdout + done.stderr).splitlines():
        if whole or line.lstrip().startswith(("FAIL", "OK", "verispect:")):
            say(f"   {line}")
    return done.returncode


def flip_one_bit(response: Path) -> Path:
    """Write a copy of the answer in which one letter of the text differs in one bit."""
    content = bytearray(response.read_bytes())
    position = (
        content.index(b"Paris") if b"Paris" in content else content.index(b'"content":"') + 12
    )
    content[position] ^= 0x01
    forged = response.with_name("forged.sse")
    forged.write_bytes(content)
    return forged


def main() -> int:
    started = time.monotonic()
    heading(1, "a key, three registered models, a trusted root and a gateway")
    prepare()
    gateway, url = start_gateway()
    try:
        ask_both(url)
        ask_proven(url)
    finally:
        gateway.terminate()
        gateway.wait(timeout=START_SECONDS)
    where = "without a network" if offline() else "(this system cannot take the network away)"
    heading(5, f"the gateway is gone; verify the receipts {where}")
    codes = [
        verify(HOME / "chat", HOME / "chat" / "response.sse", whole=True),
        verify(HOME / "tensor", HOME / "tensor" / "response.json", whole=False),
        verify(HOME / "proven", HOME / "proven" / "response.json", whole=True, policy="proven"),
    ]
    heading(6, "flip one bit of the answer, and verify again")
    forged = verify(HOME / "chat", flip_one_bit(HOME / "chat" / "response.sse"), whole=False)
    heading(7, "change one number of the proven answer in its last place, and verify again")
    changed = change_one_value(HOME / "proven" / "response.json")
    false = verify(HOME / "proven", changed, whole=False, policy="proven")
    if codes != [0, 0, 0] or (forged, false) != (1, 1):
        say("\nDEMO FAILED")
        return 1
    took = f"{time.monotonic() - started:.0f} s"
    say(f"\nAll three answers verified, one as proven; both changed ones were refused. {took}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
