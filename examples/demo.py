"""The main job from end to end, on real models: ask, get receipts, verify offline, be refused.

Starts a gateway on a free loopback port with a language model (SmolLM2-135M-Instruct) and a
tensor model (Magika, which recognises file types), asks both, verifies both receipts in a process
without a network, and then flips one bit of the answer. Run it with `make demo`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from verispect.cli.ask import save_exchange
from verispect.client.session import Exchange, GatewayClient

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("VERISPECT_DEMO_HOME") or HERE.parent / ".demo")
ROOT = HOME / "trusted-root.json"
COMMAND = [sys.executable, "-m", "verispect.cli.main"]
LANGUAGE_MODEL, TENSOR_MODEL = "smollm2-135m-instruct", "magika"
START_SECONDS = 60.0


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
    verispect("keys", "trusted-root", "--out", str(ROOT), "--registry", str(HOME / "models"))


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


def offline() -> list[str]:
    """Return what runs a command without any network, where this system allows it."""
    wrapper = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare"):
        tried = subprocess.run([*wrapper, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return wrapper
    return []


def verify(folder: Path, response: Path, *, whole: bool) -> int:
    """Run `verispect verify` in a process of its own; print all it says, or what decides."""
    arguments = [
        "verify",
        str(folder / "receipt.cose"),
        "--policy=signed",
        f"--trusted-root={ROOT}",
        f"--openings={folder / 'openings.cbor'}",
        f"--response={response}",
        f"--nonce={(folder / 'nonce.txt').read_text().strip()}",
    ]
    shown = " ".join(argument.replace(f"{HOME}/", "") for argument in arguments)
    say(f"   $ verispect {shown}")
    done = subprocess.run(
        [*offline(), *COMMAND, *arguments], capture_output=True, text=True, check=False
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
    heading(1, "a key, two registered models, a trusted root and a gateway")
    prepare()
    gateway, url = start_gateway()
    try:
        ask_both(url)
    finally:
        gateway.terminate()
        gateway.wait(timeout=START_SECONDS)
    where = "without a network" if offline() else "(this system cannot take the network away)"
    heading(4, f"the gateway is gone; verify both receipts {where}")
    codes = [
        verify(HOME / "chat", HOME / "chat" / "response.sse", whole=True),
        verify(HOME / "tensor", HOME / "tensor" / "response.json", whole=False),
    ]
    heading(5, "flip one bit of the answer, and verify again")
    forged = verify(HOME / "chat", flip_one_bit(HOME / "chat" / "response.sse"), whole=False)
    if codes != [0, 0] or forged != 1:
        say("\nDEMO FAILED")
        return 1
    say(f"\nBoth answers verified; the forged one was refused. {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
