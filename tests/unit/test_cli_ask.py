"""`verispect ask` against a running gateway, none, and one that refuses."""

from __future__ import annotations

import io
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.cli.main import main
from verispect.testing.echo_model import EchoLanguageModel

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


@pytest.fixture
def root(gateway: RunningGateway, tmp_path: Path) -> str:
    path = tmp_path / "root.json"
    path.write_bytes(TrustedRoot([gateway.state.recorder.issuer.trusted_key()]).to_json())
    return str(path)


def ask(gateway: RunningGateway, *arguments: str) -> int:
    return main(["ask", "--url", gateway.base_url, "--model", "echo", *arguments])


@pytest.mark.parametrize("options", [[], ["--stream"], ["--system=be brief", "--temperature=0"]])
def test_answer_goes_out_and_verdict_to_standard_error(
    gateway: RunningGateway, root: str, capsys: Capture, options: list[str]
) -> None:
    """Standard output holds the answer alone."""
    assert ask(gateway, "hello wide world", "--trusted-root", root, *options) == 0
    output = capsys.readouterr()
    assert output.out == "hello wide world\n"
    assert output.err.startswith("OK: verified under policy signed\n")
    assert "not covered" in output.err


@pytest.mark.parametrize("stream", [False, True])
def test_saved_files_are_what_verify_takes(
    gateway: RunningGateway, root: str, capsys: Capture, tmp_path: Path, stream: bool
) -> None:
    """Everything that --save keeps verifies afterwards, offline."""
    folder = tmp_path / "kept" / "here"
    options = ["--stream"] if stream else []
    assert ask(gateway, "hello", "--trusted-root", root, "--save", str(folder), *options) == 0
    response = folder / ("response.sse" if stream else "response.json")
    arguments = [
        "verify",
        str(folder / "receipt.cose"),
        "--policy=signed",
        f"--trusted-root={root}",
        f"--openings={folder / 'openings.cbor'}",
        f"--request={folder / 'request.json'}",
        f"--response={response}",
        f"--nonce={(folder / 'nonce.txt').read_text().strip()}",
    ]
    assert main(arguments) == 0


def test_prompt_comes_from_standard_input(
    gateway: RunningGateway, root: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dash reads the prompt."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("grüße".encode())))
    assert ask(gateway, "-", "--trusted-root", root) == 0
    assert capsys.readouterr().out == "grüße\n"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_unusable_standard_input_is_wrong_usage(
    gateway: RunningGateway,
    root: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    """Nothing, and bytes that are no text, are not sent."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    before = gateway.model.started
    assert ask(gateway, "-", "--trusted-root", root) == 2
    assert capsys.readouterr().err.startswith("verispect: error: ")
    assert gateway.model.started == before


def test_answer_of_somebody_else_fails(
    gateway: RunningGateway, capsys: Capture, tmp_path: Path
) -> None:
    """A receipt of an unknown key makes the command fail, exit code 1, and says so."""
    stranger = Issuer.create(tmp_path / "k", name="stranger", development=False, now=0)
    root = tmp_path / "stranger.json"
    root.write_bytes(TrustedRoot([stranger.trusted_key()]).to_json())
    assert ask(gateway, "hello", "--trusted-root", str(root)) == 1
    output = capsys.readouterr()
    assert output.err.startswith("FAIL: refused: ")
    assert "(key-unknown)" in output.err
    assert "OK" not in output.err


def test_unverified_answer_is_called_so(gateway: RunningGateway, capsys: Capture) -> None:
    """Not checking is possible by an unsafe word only, and is never OK."""
    assert ask(gateway, "hello", "--unsafe-no-verify") == 0
    told = capsys.readouterr().err
    assert told.startswith("UNVERIFIED")
    assert "OK" not in told
    with pytest.raises(SystemExit) as caught:
        ask(gateway, "hello")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--assurance=proven"], "available here: signed"),
        (["--assurance=sined"], "unknown assurance"),
        (["--temperature=9"], "temperature"),
        (["--max-tokens=100000"], "at most"),
        (["--model=nobody"], "no such model"),
        (["--max-tokens=-1"], "max"),
    ],
)
def test_refusal_of_the_gateway_is_passed_on(
    gateway: RunningGateway, root: str, capsys: Capture, options: list[str], words: str
) -> None:
    """The caller reads the gateway's own words, and exit code 2."""
    assert ask(gateway, "hello", "--trusted-root", root, *options) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert output.out == ""


@pytest.mark.parametrize("policy", ["sined", "/nowhere/p.toml"])
def test_mistyped_policy_costs_no_inference(
    gateway: RunningGateway, root: str, capsys: Capture, policy: str
) -> None:
    """Policy and root are read before anything is asked."""
    before = gateway.model.started
    assert ask(gateway, "hello", "--trusted-root", root, "--policy", policy) == 4
    assert ask(gateway, "hello", "--trusted-root", "/nowhere/root.json") == 4
    assert gateway.model.started == before


def test_nobody_listening_could_not_tell(root: str, capsys: Capture) -> None:
    """A gateway that is not there is exit code 4, with a hint."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert main(["ask", "x", "--model=m", "--url", url, "--trusted-root", root]) == 4
    told = capsys.readouterr().err
    assert "network-failed" in told
    assert "verispect: hint: " in told


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://h", "http://[", "http://h:99999999"])
def test_address_that_is_none_is_told(root: str, capsys: Capture, url: str) -> None:
    """A mistyped address is an error, never a traceback."""
    assert main(["ask", "x", "--model=m", "--url", url, "--trusted-root", root]) in (2, 4)
    assert capsys.readouterr().err.startswith("verispect: error: ")


def test_text_that_no_request_can_hold_is_wrong_usage(
    gateway: RunningGateway, root: str, capsys: Capture
) -> None:
    """Bytes of the command line that are no text are not sent."""
    assert ask(gateway, "\udc80", "--trusted-root", root) == 2
    assert json.dumps("\udc80") not in capsys.readouterr().out


def test_place_that_cannot_be_written_is_told(
    gateway: RunningGateway, root: str, capsys: Capture, tmp_path: Path
) -> None:
    """A file where --save wants a directory is an error; no verdict is given."""
    (tmp_path / "file").write_text("x")
    assert ask(gateway, "x", "--trusted-root", root, "--save", str(tmp_path / "file")) == 4
    assert "OK" not in capsys.readouterr().err


_OWN = 'version = 1\nname = "mine"\nnonce = true\n[claims]\noutput = ["asserted"]\n'


@pytest.mark.parametrize("stream", [False, True])
def test_a_policy_of_ones_own_can_be_asked_for(
    gateway: RunningGateway, root: str, capsys: Capture, tmp_path: Path, stream: bool
) -> None:
    """The file goes along with the request, and the answer is held to that very policy."""
    path = tmp_path / "mine.toml"
    path.write_text(_OWN, encoding="utf-8")
    kept = tmp_path / "kept"
    options = ["--stream"] if stream else []
    asked = ["--trusted-root", root, "--policy", str(path), "--assurance", str(path)]
    assert ask(gateway, "hello", *asked, "--save", str(kept), *options) == 0
    output = capsys.readouterr()
    assert output.err.startswith("OK: verified under policy mine\n")
    assert "another policy" not in output.err
    assert "it is not the one applied here" not in output.err
    response = kept / ("response.sse" if stream else "response.json")
    arguments = ["verify", str(kept / "receipt.cose"), "--policy", str(path)]
    arguments += ["--trusted-root", root, "--openings", str(kept / "openings.cbor")]
    arguments += ["--request", str(kept / "request.json"), "--response", str(response)]
    assert main([*arguments, "--nonce", (kept / "nonce.txt").read_text().strip()]) == 0
    assert "(as when asking)" in capsys.readouterr().out


def test_a_policy_that_the_gateway_cannot_deliver_is_told(
    gateway: RunningGateway, root: str, capsys: Capture, tmp_path: Path
) -> None:
    """Its refusal names what is missing, and no answer is shown."""
    path = tmp_path / "mine.toml"
    path.write_text(_OWN.replace("asserted", "proven"), encoding="utf-8")
    assert ask(gateway, "hello", "--trusted-root", root, "--assurance", str(path)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "not met for output" in output.err
    assert "available here: signed" in output.err
