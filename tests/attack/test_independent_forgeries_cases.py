"""Hostile files of cases and hostile evidence on the command line, and a sweep of damaged vectors.

Whatever comes in, an answer of ours comes out: never a traceback, never `ok` by accident.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from independent_keys import issue
from independent_mutations import mutate

from tee_vectors import cases, load_case, milliseconds
from verispect.cli.appraise import print_appraisal
from verispect.cli.main import main
from verispect.core.errors import Error
from verispect.evidence.attestation import (
    AttestationAppraisal,
    AttestationPolicy,
    AttestationVerdict,
    EvidenceClass,
    Examination,
    Expectation,
)
from verispect.evidence.technologies import TECHNOLOGIES, appraise_evidence, own_anchors

EVERY_CLASS = AttestationPolicy(accepted_classes=frozenset(EvidenceClass))
CASE = {
    "id": "x", "tech": "aws-nitro", "evidence": {"doc": "doc"}, "inputs": {}, "policy": {},
    "verify_at": "2025-06-01T00:00:00Z", "expect": "reject", "reason": "malformed", "why": "",
}  # fmt: skip


def run_cases(
    folder: Path, capsys: pytest.CaptureFixture[str], *found: Any
) -> tuple[int, list[dict[str, Any]]]:
    path = folder / "cases.json"
    path.write_text(json.dumps({"cases": list(found)}), encoding="utf-8")
    code = main(["plumbing", "tee-cases", str(path)])
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    return code, [json.loads(line) for line in output.out.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every kind of thing that is no file of evidence."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"outside")
    (inside / "doc").write_bytes(b"garbage")
    (inside / "folder").mkdir()
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to(tmp_path)
    (inside / "here").symlink_to(inside / "there")
    (inside / "there").symlink_to(inside / "here")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize(
    "name",
    [
        "../secret", "folder/../../secret", "out", "up/secret", "here", "pipe", "folder", ".",
        "absent", "/etc/hostname", "/dev/zero", "a" * 5000, "a/" * 3000, "", "a\0b", "\n", 5, None,
        ["doc"], {"doc": "doc"},
    ],
)  # fmt: skip
def test_a_name_that_leads_to_no_file_beside_the_cases_is_never_ok(
    folder: Path, capsys: pytest.CaptureFixture[str], name: Any
) -> None:
    """Paths out of the folder, links, pipes, folders and nonsense are told and never read."""
    code, lines = run_cases(folder, capsys, CASE | {"evidence": {"doc": name}})
    assert code == 1
    assert [line["ok"] for line in lines] == [False]
    assert "error" in lines[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"nonce": "00"}},
        {"Inputs": {"nonce": "00"}},
        {"polcy": {"trust": "dev"}},
        {"inputs": {"nonse": "00"}},
        {"inputs": {"nonce": 5}},
        {"inputs": {"nonce": "0g"}},
        {"inputs": []},
        {"policy": {"allow-debug": True}},
        {"policy": {"allow_debug": "false"}},
        {"policy": {"trust": "Dev"}},
        {"policy": {"accept_tcb": "UpToDate"}},
        {"inputs": {"measurements": {"pcr0": 5}}},
        {"evidence": []},
        {"evidence": {str(n): "doc" for n in range(99)}},
        {"tech": ["aws-nitro"]},
        {"verify_at": 0},
        {"verify_at": "yesterday"},
        {"verify_at": None},
        {"expect": "Reject"},
        {"reason": ["malformed"]},
    ],
)
def test_a_misspelt_case_is_never_ok_by_accident(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    """A case that would be ok fails as soon as one of its words is not known."""
    _, (good, bad) = run_cases(folder, capsys, CASE, CASE | changes)
    assert good["ok"] is True
    assert bad["ok"] is False


def test_cases_that_are_none_are_told_one_by_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers, lists and nothing where cases should be, and one name twice, give a line each."""
    code, lines = run_cases(folder, capsys, 5, None, [], "x", {}, CASE, CASE)
    assert code == 1
    assert [line["ok"] for line in lines] == [False] * 5 + [True] * 2


def test_evidence_of_another_technology_is_not_accepted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A genuine TDX quote offered as every other technology is refused and never ok."""
    case = load_case("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06")
    for name, data in case["evidence"].items():
        (folder / name).write_bytes(data)
    for technology in TECHNOLOGIES.keys() - {"intel-tdx"}:
        row = TECHNOLOGIES[technology]
        names = dict.fromkeys(row.forms[0], "quote")
        wrong = CASE | {
            "tech": technology, "expect": "accept", "reason": "ok", "evidence": names,
            "verify_at": case["verify_at"],
        }  # fmt: skip
        _, lines = run_cases(folder, capsys, wrong)
        assert (lines[0]["result"], lines[0]["ok"], lines[0]["class"]) == ("reject", False, None)


GARBAGE = (
    b"", b"{}", b"[" * 100_000, b'{"a":NaN}', b"\xff" * 64, b"\0" * 5000,
    b'[["JWT","a.b.c"],{}]', b"-----BEGIN",
)  # fmt: skip
KINDS = (
    "nitro", "tdx", "sgx", "sev-snp", "nvidia-gpu", "nvidia-rim", "nras", "tpm", "azure-vtpm",
    "confidential-space", "service",
)  # fmt: skip


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_not_understood_and_no_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, content: bytes
) -> None:
    """`appraise` of garbage of every kind ends with a code that is neither good nor a crash."""
    path = tmp_path / "garbage"
    path.write_bytes(content)
    needed = {"tdx": 1, "sgx": 1, "sev-snp": 1, "nras": 1, "tpm": 2}.get(kind, 0)
    arguments = ["appraise", str(path), "--kind", kind]
    if needed:
        arguments += ["--endorsements", *[str(path)] * needed]
    code = main(arguments)
    output = capsys.readouterr()
    assert code in {1, 3, 4}
    assert output.err.startswith(("FAIL: ", "verispect: error: "))
    assert "internal" not in output.err.lower()


def test_nothing_of_others_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in facts, details and gaps are printed as what they are not: text."""
    examination = Examination("x", EVERY_CLASS)
    examination.facts["subject"] = "a\x1b[2J\x9b1mb\u202e"
    examination.facts["list"] = ["\x1b]0;owned\x07"]
    examination.skipped("audience", "found \x1b[31mgreen\x1b[0m\r\nOK: accepted")
    print_appraisal(examination.conclude())
    printed = capsys.readouterr().out
    assert not set("\x1b\x9b\x07\r\u202e") & set(printed)
    assert not any(line.startswith("OK") for line in printed.splitlines())


def test_anchors_of_one_technology_count_for_no_other() -> None:
    """Everybody's genuine evidence is refused where its own root is trusted for another."""
    everything = [
        anchor
        for technology in TECHNOLOGIES
        for anchor in [issue("x", None, ca=True).anchor(technology, EvidenceClass.HARDWARE)]
    ]
    for case in (load_case(c["id"]) for c in cases() if c["expect"] == "accept"):
        trusted = own_anchors(case["tech"], case["evidence"])
        moved = [
            type(a)(other, a.key_digest, a.evidence_class, a.label)
            for a in trusted
            for other in TECHNOLOGIES
            if other != case["tech"]
        ]
        appraisal = appraise_evidence(
            case["tech"], case["evidence"], anchors=[*everything, *moved], expected=Expectation(),
            policy=EVERY_CLASS, at=milliseconds(case["verify_at"]),
        )  # fmt: skip
        assert appraisal.verdict is AttestationVerdict.REJECT
        assert appraisal.evidence_class is None


def test_an_audience_that_evidence_cannot_name_is_not_passed_over() -> None:
    """Evidence without an audience says so where one was expected."""
    case = load_case("nv-hopper-590")
    appraisal = appraise_evidence(
        case["tech"],
        case["evidence"],
        anchors=None,
        expected=Expectation(audience="me"),
        policy=EVERY_CLASS,
        at=milliseconds(case["verify_at"]),
    )
    assert "audience: evidence of nvidia-gpu names none" in appraisal.not_checked


def assert_coherent(appraisal: AttestationAppraisal) -> None:
    json.dumps(appraisal.to_json()).encode()
    if appraisal.verdict is AttestationVerdict.ACCEPT:
        assert appraisal.evidence_class is not None
        assert appraisal.reason is None
    if appraisal.verdict is AttestationVerdict.REJECT:
        assert not appraisal.acceptable
        assert appraisal.reason is not None
        assert not any(appraisal.trust_vector.values())


@pytest.mark.slow
def test_no_damage_escapes_as_an_error() -> None:
    """Five seconds of damaged vectors of every technology give appraisals that are coherent."""
    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases():
        if case["expect"] != "reject":
            found.setdefault(case["tech"], []).append(load_case(case["id"]))
    seed = random.SystemRandom().getrandbits(32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    end = time.process_time() + 5
    while time.process_time() < end:
        for technology, choices in found.items():
            case = chance.choice(choices)
            evidence = dict(case["evidence"])
            name = chance.choice(sorted(evidence))
            evidence[name] = mutate(evidence[name], chance)
            own = case["policy"].get("trust") == "dev"
            try:
                anchors = own_anchors(technology, evidence) if own else None
            except Error:
                continue
            assert_coherent(
                appraise_evidence(
                    technology,
                    evidence,
                    anchors=anchors,
                    expected=Expectation(),
                    policy=EVERY_CLASS,
                    at=milliseconds(case["verify_at"]),
                )
            )
