"""The wheel alone, in an empty environment without a network, answers every published vector."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "vectors"
MAXIMUM_BYTES = 35 * 1000 * 1000
NEVER_IN_BASE = (
    "fastapi",
    "httpx",
    "jinja2",
    "llvmlite",
    "msgspec",
    "numba",
    "onnx",
    "onnxruntime",
    "pydantic",
    "starlette",
    "uvicorn",
    "xllamacpp",
)

# Runs a script with every door to a network shut, then says what was imported.
OFFLINE = """
import json, runpy, sys, time

def deny(event, arguments):
    if event.startswith(("socket.", "urllib.", "ftplib.", "http.", "smtplib.", "subprocess.")):
        raise RuntimeError("the offline verifier reached for " + event)

sys.addaudithook(deny)
start = time.perf_counter()
import verispect.appraisal.verifier
print("import took %.0f ms" % ((time.perf_counter() - start) * 1000))
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    code = end.code
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def uv() -> str:
    local = ROOT / ".tooling" / "bin" / "uv"
    found = str(local) if local.exists() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed; `make test` installs it")
    return found


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result


def without_network() -> list[str]:
    """Return what starts a process in a network namespace of its own, where that is permitted."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    command = [unshare, "--user", "--map-root-user", "--net"]
    permitted = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if permitted.returncode == 0 else []


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The built wheel, installed with the locked base dependencies and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    # The lock is for the dependencies: the versions that were tested, by hash.
    run(
        uv(), "export", "--frozen", "--quiet", "--no-default-groups", "--no-emit-project",
        "--output-file", folder / "requirements.txt", cwd=ROOT,
    )  # fmt: skip
    run(uv(), "build", "--quiet", "--wheel", "--out-dir", folder / "dist", cwd=ROOT)
    run(uv(), "venv", "--quiet", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    install = (uv(), "pip", "install", "--quiet", "--python", python)
    run(*install, "--require-hashes", "--requirement", folder / "requirements.txt")
    (wheel,) = (folder / "dist").glob("*.whl")
    run(*install, "--no-deps", wheel)
    return python


PATHS = sorted(VECTORS.glob("*/*.json"))
PROOFS = [path for path in PATHS if path.parent.name == "proof" or path.name.startswith("proof-")]


def answer_offline(bare, folder, paths):
    """Run vectors without a network, and return the packages that were imported."""
    script = folder / "offline.py"
    script.write_text(OFFLINE)
    result = run(
        *without_network(), bare, "-I", script, VECTORS / "run.py", *paths,
        cwd=folder, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    timing, *answers, modules = result.stdout.splitlines()
    print(timing)
    assert len(answers) == len(paths)
    assert [line for line in answers if not line.startswith("ok ")] == []
    imported = {name.partition(".")[0] for name in json.loads(modules)}
    assert imported.isdisjoint(NEVER_IN_BASE)
    return imported


def test_every_vector_is_answered_offline(bare, tmp_path):
    """Vectors get the published answer, without a network and without heavy packages."""
    imported = answer_offline(bare, tmp_path, [path for path in PATHS if path not in PROOFS])
    # Installed for hardware attestations and proofs, and not even imported where there are none.
    assert imported.isdisjoint({"cryptography", "dcap_qvl", "jwt", "numpy"})
    assert imported.isdisjoint({"socket", "ssl", "asyncio", "sqlite3", "http"})


def test_vectors_of_proofs_are_answered_offline(bare, tmp_path):
    """Proofs are decided in the base install: NumPy is all they need, and no prover."""
    assert len(PROOFS) > 50
    assert "numpy" in answer_offline(bare, tmp_path, PROOFS)


def test_the_rule_of_stakes_is_in_the_wheel(bare, tmp_path):
    """Who installs the base alone has the table that advice is held to."""
    script = "from verispect.appraisal.stakes import STAKES; print(*STAKES)"
    shown = run(bare, "-I", "-c", script, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    assert shown.stdout.split() == ["low", "moderate", "high", "critical"]


def test_network_is_really_shut(bare, tmp_path):
    """The guard is no decoration: a script that reaches for a network fails under it."""
    offline, script = tmp_path / "offline.py", tmp_path / "reach.py"
    offline.write_text(OFFLINE)
    script.write_text("import socket; socket.create_connection(('127.0.0.1', 9), 1)\n")
    result = subprocess.run(
        [bare, "-I", offline, script], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "the offline verifier reached for socket." in result.stderr


def test_base_install_is_small(bare):
    """The wheels of the base install weigh under 35 MB, none of them a heavy package's."""
    (packages,) = bare.parent.parent.glob("lib/python*/site-packages")
    # Compressed one by one, as a wheel's files are: what a download weighs.
    size = sum(
        len(zlib.compress(path.read_bytes()))
        for path in packages.rglob("*")
        if path.is_file() and not path.is_symlink() and path.suffix != ".pyc"
    )
    print(f"base install: {size / 1e6:.1f} MB to download")
    assert size <= MAXIMUM_BYTES
    installed = {path.name.partition("-")[0].lower() for path in packages.glob("*.dist-info")}
    assert "verispect" in installed
    assert installed.isdisjoint(NEVER_IN_BASE)


def test_command_line_verifies_in_the_base_install(bare, tmp_path):
    """`verispect verify` needs the base install only, and its exit code is the answer."""
    case = json.loads((VECTORS / "verification" / "accept.json").read_text())
    receipt, root, policy = (tmp_path / name for name in ("receipt", "root.json", "policy.toml"))
    receipt.write_bytes(bytes.fromhex(case["receipt"]))
    document = json.loads(case["trustedRoot"])
    del document["expiresAt"]
    root.write_text(json.dumps(document))
    policy.write_text(case["policy"])
    verify = (bare.parent / "verispect", "verify", receipt, "--policy", policy)
    options = {"cwd": tmp_path, "env": {"PATH": os.defpath}}
    good = run(*without_network(), *verify, "--trusted-root", root, **options)
    assert "OK: verified" in good.stderr
    changed = bytearray(receipt.read_bytes())
    changed[-1] ^= 1
    receipt.write_bytes(changed)
    refused = subprocess.run(
        [*without_network(), *verify, "--trusted-root", root],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert refused.returncode == 1
    assert "signature-invalid" in refused.stderr
