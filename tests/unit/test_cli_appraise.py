"""`verispect appraise`: verdicts, exit codes and what is shown, for own and genuine evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from confidential_space_forge import AUDIENCE, DIGEST, NONCE, NOW, Recipe, key, path, token
from tee_vectors import vectors_path
from verispect.cli.main import main

AT = ["--at", NOW.isoformat()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A token of ours, its root, and reference values."""
    (tmp_path / "token").write_bytes(token())
    (tmp_path / "root.der").write_bytes(path(Recipe())[-1])
    (tmp_path / "good.json").write_text(json.dumps({"image_digest": [DIGEST]}))
    (tmp_path / "bad.json").write_text(json.dumps({"image_digest": "00" * 32}))
    return tmp_path


def _trust(folder: Path) -> list[str]:
    return ["--anchor", str(folder / "root.der"), "--anchor-class", "development"]


def _token(folder: Path, *more: str, trust: bool = True) -> int:
    arguments = ["appraise", str(folder / "token"), "--kind", "confidential-space", *AT]
    return main([*arguments, *(_trust(folder) if trust else []), *more])


def test_an_accepted_token_shows_checks_facts_and_gaps(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that was and was not checked is printed, and the class beside the verdict."""
    assert _token(folder, "--nonce", NONCE.hex(), "--audience", AUDIENCE) == 0
    captured = capsys.readouterr()
    assert "class development" in captured.err
    for part in ("  1  structure", "not checked", "tcb status", "hardware", DIGEST):
        assert part in captured.out


def test_the_json_view_is_complete(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has the verdict, the class, every check and every gap."""
    assert _token(folder, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdict"] == "accept"
    assert shown["class"] == "development"
    assert shown["checks"]
    assert shown["notChecked"]
    assert shown["binding"] is None


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--nonce", "00" * 32], 1),
        (["--audience", "somebody-else"], 1),
        (["--nonce", "xyz"], 2),
        (["--endorsements", "one", "two"], 2),
        (["--profile", "key-v1"], 2),
    ],
)
def test_refusals_and_misuse_have_different_exit_codes(
    folder: Path, more: list[str], code: int
) -> None:
    """1 is no, 2 is a mistake in the command."""
    assert _token(folder, *more) == code


def test_the_default_trusts_the_vendor_only(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an anchor of the user's, a token of our own Google is nobody's."""
    assert _token(folder, trust=False) == 1
    assert "attestation-root-untrusted" in capsys.readouterr().err


def test_an_anchor_needs_its_class(folder: Path) -> None:
    """Nobody gets a trust anchor of an unstated class."""
    assert _token(folder, "--anchor", str(folder / "root.der"), trust=False) == 2


def test_malformed_evidence_is_not_understood(folder: Path) -> None:
    """Exit code 3 is neither no nor could-not-tell."""
    (folder / "token").write_bytes(b"no token at all")
    assert _token(folder) == 3


@pytest.mark.parametrize(("name", "code"), [("good.json", 0), ("bad.json", 1)])
def test_reference_values_decide(folder: Path, name: str, code: int) -> None:
    """A measurement that is none of the accepted ones refuses."""
    assert _token(folder, "--reference-values", str(folder / name)) == code


def test_a_key_as_anchor_is_as_good_as_its_certificate(folder: Path) -> None:
    """Anchors are keys; a PEM public key names one."""
    pem = key("root").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "root.der").write_bytes(pem)
    assert _token(folder) == 0


def test_a_binding_profile_is_checked_against_the_field(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The members make the nonce of the token, or the evidence is refused."""
    names = ("session_id", "model_digest", "input_commitment", "output_commitment")
    members = dict.fromkeys(names, "11" * 32)
    (folder / "members.json").write_text(json.dumps(members))
    more = ["--profile", "gcp-cs/nonce-v1", "--members", str(folder / "members.json")]
    assert _token(folder, *more) == 1
    assert "attestation-binding-invalid" in capsys.readouterr().err
    from verispect.evidence.bindings.registry import binding_profile

    values = {name: bytes.fromhex(value) for name, value in members.items()}
    nonce = binding_profile("gcp-cs/nonce-v1").recompute(values, 64).decode()
    from confidential_space_forge import claims

    (folder / "token").write_bytes(token(claims=claims(eat_nonce=["another-nonce", nonce])))
    assert _token(folder, *more) == 0
    assert "binds   model, nonce, request, response" in capsys.readouterr().out
    assert _token(folder, "--profile", "nobody/9", *more[2:]) == 4


def test_genuine_evidence_is_accepted_at_its_own_time_and_not_today() -> None:
    """Time is an argument: the same document, two answers."""
    document = str(vectors_path() / "nitro" / "evervault_beta.cose")
    arguments = ["appraise", document, "--kind", "nitro", "--at"]
    assert main([*arguments, "2022-10-13T08:58:02Z"]) == 0
    assert main([*arguments, "2026-11-23T12:00:00Z"]) == 1


def test_a_tcb_status_is_accepted_only_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Genuine and in need of hardening: 4 until the user says that it is acceptable."""
    folder = vectors_path() / "dcap"
    arguments = ["appraise", str(folder / "quotes" / "sgx_v3_swhardening.bin"), "--kind", "sgx"]
    arguments += ["--endorsements", str(folder / "collateral" / "sgx_00606a_2025-08.json")]
    arguments += ["--at", "2025-08-30T05:09:06Z"]
    assert main(arguments) == 4
    assert "POLICY" in capsys.readouterr().err
    assert main([*arguments, "--accept-tcb", "SWHardeningNeeded"]) == 0


def test_missing_collateral_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """A quote without its collateral is a question that cannot be put."""
    quote = str(vectors_path() / "dcap" / "quotes" / "sgx_v3_swhardening.bin")
    assert main(["appraise", quote, "--kind", "sgx"]) == 2
    assert "collateral" in capsys.readouterr().err
