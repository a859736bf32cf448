"""`verispect verify`, `inspect` and `policy`: verdicts, voice, exit codes, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saved_exchange import Saved, save

from verispect.attesters.signer import Issuer
from verispect.cli.main import main
from verispect.core.errors import Reason

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return save(tmp_path_factory.mktemp("saved"))


def expect_failure(
    arguments: list[str], capsys: Capture, code: int, reason: Reason, word: str = "FAIL: refused"
) -> str:
    """Run; require code, reason and word, and that nothing says OK; return standard error."""
    assert main(arguments) == code
    output = capsys.readouterr()
    assert f"({reason.value})" in output.err
    assert word in output.err
    assert "OK" not in output.err
    assert "Traceback" not in output.err
    return output.err


@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_good_receipt_is_verified(saved: Saved, capsys: Capture, kind: str) -> None:
    """The table goes to standard output, the verdict to standard error."""
    assert main(saved.arguments(kind)) == 0
    output = capsys.readouterr()
    assert output.err == "OK: verified under policy signed\n"
    for words in ("not covered", "claim ", "asserted", "confidentiality", "content:output"):
        assert words in output.out


@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_answer_itself_can_be_given_as_the_receipt(
    saved: Saved, capsys: Capture, kind: str
) -> None:
    """A JSON answer or an event stream carries its receipt."""
    name = "response.json" if kind == "whole" else "response.sse"
    assert main(saved.arguments(kind, receipt=str(saved.path / kind / name))) == 0


def test_json_is_the_attestation_result(saved: Saved, capsys: Capture) -> None:
    """With --json standard output is JSON alone, and the verdict still goes to standard error."""
    assert main([*saved.arguments(), "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert result["verdict"] == "verified"
    assert result["reason"] is None
    assert {"checks", "claims", "notCovered", "policy", "receiptId"} <= result.keys()
    assert output.err.startswith("OK: ")


def _changed_file(path: Path, name: str, change: Callable[[bytes], bytes]) -> str:
    changed = path.parent / name
    changed.write_bytes(change(path.read_bytes()))
    return str(changed)


@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_flipped_output_is_refused(saved: Saved, capsys: Capture, kind: str) -> None:
    """One changed letter of the answer is a refusal, exit code 1."""
    name = "response.json" if kind == "whole" else "response.sse"
    forged = _changed_file(
        saved.path / kind / name, "forged", lambda data: data.replace(b"quokka", b"quokkb", 1)
    )
    expect_failure(saved.arguments(kind, response=forged), capsys, 1, Reason.CONTENT_MISMATCH)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"wombat", b"wombay"), (b'"temperature": 0', b'"temperature": 1'), (b'"echo"', b'"echp"')],
)
def test_other_request_is_refused(
    saved: Saved, capsys: Capture, before: bytes, after: bytes
) -> None:
    """The receipt must be of the request that was sent, settings and model included."""
    forged = _changed_file(
        saved.path / "whole" / "request.json", "asked", lambda data: data.replace(before, after)
    )
    expect_failure(saved.arguments(request=forged), capsys, 1, Reason.CONTENT_MISMATCH)


def test_other_nonce_is_refused(saved: Saved, capsys: Capture) -> None:
    """A receipt that answers another nonce is of another request."""
    expect_failure(saved.arguments(nonce="A" * 22), capsys, 1, Reason.NONCE_MISMATCH)


def test_other_openings_are_refused(saved: Saved, capsys: Capture) -> None:
    """Openings of another inference open nothing here."""
    other = str(saved.path / "streamed" / "openings.cbor")
    expect_failure(saved.arguments(openings=other), capsys, 1, Reason.OPENING_MISMATCH)


def test_response_without_openings_is_refused(saved: Saved, capsys: Capture) -> None:
    """What cannot be compared is not passed over, and the hint says what is missing."""
    arguments = saved.arguments(openings=None, request=None)
    shown = expect_failure(arguments, capsys, 1, Reason.CONTENT_NOT_OPENED)
    assert "hint: give the openings" in shown


def _root(saved: Saved, name: str, **changes: Any) -> str:
    document = json.loads((saved.path / "root.json").read_bytes())
    key_changes = changes.pop("key", {})
    document["issuerKeys"][0].update(key_changes)
    document.update(changes)
    path = saved.path / name
    path.write_text(json.dumps(document))
    return str(path)


def test_unknown_key_is_refused(saved: Saved, capsys: Capture, tmp_path: Path) -> None:
    """A signature of nobody the user trusts is refused."""
    stranger = Issuer.create(tmp_path / "k", name="tests", development=False, now=0)
    root = _root(saved, "other.json", key={"key": stranger.signer.public_key.to_text()})
    expect_failure(saved.arguments(trusted_root=root), capsys, 1, Reason.KEY_UNKNOWN)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"revokedAt": 1}, Reason.KEY_REVOKED),
        ({"notAfter": 1}, Reason.KEY_EXPIRED),
        ({"notBefore": 4_000_000_000_000}, Reason.KEY_NOT_YET_VALID),
        ({"development": True}, Reason.DEVELOPMENT_KEY),
        ({"issuer": "somebody else"}, Reason.ISSUER_MISMATCH),
    ],
)
def test_key_that_does_not_count_is_refused(
    saved: Saved, capsys: Capture, change: dict[str, Any], reason: Reason
) -> None:
    """Revoked, expired, early, development and other issuers' keys are each told apart."""
    root = _root(saved, "changed.json", key=change)
    expect_failure(saved.arguments(trusted_root=root), capsys, 1, reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expiresAt": 1}, Reason.TRUSTED_ROOT_STALE),
        ({"issuerKeys": []}, Reason.TRUSTED_ROOT_EMPTY),
    ],
)
def test_unusable_root_could_not_tell(
    saved: Saved, capsys: Capture, changes: dict[str, Any], reason: Reason
) -> None:
    """An expired or empty trusted root is neither yes nor no: exit code 4."""
    if changes == {"issuerKeys": []}:
        path = saved.path / "empty.json"
        path.write_text('{"verispectTrustedRoot": 1, "issuerKeys": []}')
        root = str(path)
    else:
        root = _root(saved, "stale.json", **changes)
    arguments = saved.arguments(trusted_root=root)
    expect_failure(arguments, capsys, 4, reason, "FAIL: could not tell")


def test_time_of_judging_can_be_given(saved: Saved, capsys: Capture) -> None:
    """--at judges at that time, so a receipt of today is in the future of last year."""
    assert main([*saved.arguments(), "--at=2099-01-01T00:00:00+01:00"]) == 0
    capsys.readouterr()
    early = [*saved.arguments(), "--at=2020-01-01"]
    expect_failure(early, capsys, 1, Reason.SIGNED_IN_FUTURE)


@pytest.mark.parametrize("text", ["yesterday", "", "0001-01-01T00:00:00+23:59", "2020-13-01"])
def test_time_that_is_none_is_wrong_usage(saved: Saved, capsys: Capture, text: str) -> None:
    """A mistyped time is told and nothing is judged."""
    code = main([*saved.arguments(), f"--at={text}"])
    output = capsys.readouterr()
    assert code == 2 or (text.startswith("0001") and code == 1)
    assert "OK" not in output.err


@pytest.mark.parametrize("option", ["receipt", "openings", "request", "response", "trusted-root"])
@pytest.mark.parametrize("content", ["missing", "directory", "empty", "binary", "text", "deep"])
def test_bad_file_is_an_error_with_its_code(
    saved: Saved, capsys: Capture, tmp_path: Path, option: str, content: str
) -> None:
    """Whatever a file holds, there is one line of error, never a traceback and never OK."""
    path = tmp_path / "file"
    contents = {"empty": b"", "binary": bytes(range(256)), "text": b"hello", "deep": b"[" * 10**6}
    if content == "directory":
        path.mkdir()
    elif content != "missing":
        path.write_bytes(contents[content])
    code = main(saved.arguments(**{option.replace("-", "_"): str(path)}))
    output = capsys.readouterr()
    assert code == (4 if content in ("missing", "directory") else 3)
    assert output.err.startswith("verispect: error: ")
    assert output.out == ""


def test_file_of_endless_size_is_too_large(saved: Saved, capsys: Capture) -> None:
    """Reading stops at a limit."""
    assert main(saved.arguments(response="/dev/zero")) == 3
    assert "(too-large)" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_told(saved: Saved, capsys: Capture, tmp_path: Path) -> None:
    """A file that may not be read is an error with the system's words."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    path.chmod(0)
    assert main(saved.arguments(receipt=str(path))) == 4
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("policy", "code"),
    [("sined", 4), ("none.toml", 4), ("a" * 5000, 4), ("", 4), ("{file}", 3)],
)
def test_wrong_policy_is_an_error(
    saved: Saved, capsys: Capture, tmp_path: Path, policy: str, code: int
) -> None:
    """A mistyped preset, a missing file and a broken file each stop the command."""
    path = tmp_path / "p.toml"
    path.write_text("version = 1\nnome = 'x'\n")
    assert main(saved.arguments(policy=policy.replace("{file}", str(path)))) == code
    assert capsys.readouterr().err.startswith("verispect: error: ")


def test_policy_that_requires_more_is_refused(
    saved: Saved, capsys: Capture, tmp_path: Path
) -> None:
    """A signature does not meet a policy that wants a proof; an empty policy denies."""
    path = tmp_path / "p.toml"
    path.write_text('version = 1\nname = "strict"\n[claims]\nexecution = ["proven"]\n')
    expect_failure(saved.arguments(policy=str(path)), capsys, 1, Reason.POLICY_UNMET)
    path.write_text('version = 1\nname = "empty"\n[claims]\n')
    expect_failure(saved.arguments(policy=str(path)), capsys, 1, Reason.POLICY_EMPTY)


@pytest.mark.parametrize("nonce", ["!", "a", "\N{SNOWMAN}", "A" * 100_000])
def test_nonce_that_is_none_is_malformed(saved: Saved, capsys: Capture, nonce: str) -> None:
    """A mistyped nonce is told; a long one is another one."""
    assert main(saved.arguments(nonce=nonce)) in (1, 3)
    assert "OK" not in capsys.readouterr().err


def test_unknown_evidence_kind_could_not_tell(saved: Saved, capsys: Capture) -> None:
    """A plug-in that is not installed is told."""
    assert main([*saved.arguments(), "--evidence-kind=tee-of-dreams"]) == 4
    assert "tee-of-dreams" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["policy", "trusted-root"])
def test_policy_and_root_have_no_default(saved: Saved, capsys: Capture, missing: str) -> None:
    """Leaving them out is wrong usage, exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(saved.arguments(**{missing.replace("-", "_"): None}))
    assert caught.value.code == 2
    assert f"--{missing}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["whole", "streamed"])
def test_inspect_says_unverified_first(saved: Saved, capsys: Capture, kind: str) -> None:
    """What a receipt says is shown with its openings, and never called true."""
    folder = saved.path / kind
    arguments = ["inspect", str(folder / "receipt.cose")]
    assert main([*arguments, "--openings", str(folder / "openings.cbor")]) == 0
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert first.startswith("unverified: ")
    view = json.loads(rest)
    assert view["statement"]["requestedModel"] == "echo"
    assert view["openings"]["output"] == ["quokka wombat numbat"]


def test_inspect_refuses_what_is_no_receipt(capsys: Capture, tmp_path: Path) -> None:
    """Bytes that are none are malformed."""
    path = tmp_path / "file"
    for content in (b"", b"\xd2", b"\xd2\x84\x40", b'{"verispect":1}', b'{"verispect":{}}'):
        path.write_bytes(content)
        assert main(["inspect", str(path)]) == 3
        assert capsys.readouterr().out == ""


def test_policy_show_can_be_read_back(capsys: Capture, tmp_path: Path, saved: Saved) -> None:
    """What is printed is the policy, in full: saved to a file it has the same digest."""
    assert main(["policy", "show", "signed"]) == 0
    shown = capsys.readouterr().out
    path = tmp_path / "copy.toml"
    path.write_text(shown)
    assert main(["policy", "show", str(path)]) == 0
    assert capsys.readouterr().out == shown
    assert main(saved.arguments(policy=str(path))) == 0


# -- Processes -------------------------------------------------------------------------------------

_BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {%s}:
            raise ModuleNotFoundError(f"no {name}", name=name)
sys.meta_path.insert(0, Blocker())
from verispect.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
_EXTRAS = ("cryptography", "httpx", "msgspec", "numpy", "uvicorn", "starlette", "onnx", "openai")


def _run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    program = _BLOCKED % ", ".join(f"{name!r}" for name in _EXTRAS)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_offline_commands_need_the_base_install_only(saved: Saved) -> None:
    """verify, inspect and policy run where no extra is installed."""
    verified = _run(saved.arguments("streamed"))
    assert (verified.returncode, verified.stderr) == (0, "OK: verified under policy signed\n")
    assert _run(["inspect", str(saved.path / "whole" / "receipt.cose")]).returncode == 0
    assert _run(["policy", "show", "signed"]).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["ask", "hello", "--model=m", "--unsafe-no-verify"],
        ["keys", "new", "--issuer=x", "--keys={directory}"],
    ],
)
def test_missing_extra_is_told_with_a_hint(arguments: list[str], tmp_path: Path) -> None:
    """Where an extra is missing the command says how to get it, exit code 2."""
    filled = [argument.replace("{directory}", str(tmp_path / "d")) for argument in arguments]
    done = _run(filled)
    assert done.returncode == 2, done.stderr
    assert "is not installed" in done.stderr
    assert "verispect: hint: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_output_is_never_a_verdict(saved: Saved) -> None:
    """A reader that goes away does not turn into exit code 0."""
    process = subprocess.Popen(
        [sys.executable, "-m", "verispect.cli.main", *saved.arguments()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait() == 4
    assert "Traceback" not in told
    assert "Exception" not in told


def test_full_disk_is_never_a_verdict(saved: Saved) -> None:
    """Output that cannot be written is told, exit code 4."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "verispect.cli.main", *saved.arguments()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 4
    assert "OK" not in done.stderr
    assert "Traceback" not in done.stderr


def test_text_that_the_terminal_cannot_show_is_escaped(saved: Saved) -> None:
    """An ASCII terminal is no reason for a traceback."""
    arguments = saved.arguments(receipt="\N{SNOWMAN}")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = _run(arguments, env=environment)
    assert done.returncode == 4
    assert "\\u2603" in done.stderr
