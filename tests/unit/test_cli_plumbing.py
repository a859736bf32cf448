"""`verispect plumbing tee-cases` on bad files: nothing outside the folder, nothing passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from confidential_space_forge import NONCE, NOW, jwks, token
from verispect.cli.main import main
from verispect.cli.plumbing import MAX_CASES, run_case

GOOD: dict[str, Any] = {
    "id": "cs",
    "tech": "gcp-confidential-space",
    "expect": "accept",
    "reason": "ok",
    "verify_at": NOW.isoformat(),
    "evidence": {"token": "token.jwt", "jwks": "jwks.json"},
    "inputs": {"nonce": NONCE.hex()},
    "policy": {"trust": "dev"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of evidence."""
    inside = tmp_path / "cases"
    inside.mkdir()
    (inside / "token.jwt").write_bytes(token(with_path=False))
    (inside / "jwks.json").write_bytes(jwks())
    (tmp_path / "outside").write_bytes(token(with_path=False))
    return inside


def _run(folder: Path, cases: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[Any]]:
    path = folder / "cases.json"
    path.write_text(json.dumps({"cases": cases}))
    code = main(["plumbing", "tee-cases", str(path)])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_good_case_is_one_line_with_all_members(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The members are those that other verifiers are compared by."""
    code, (line,) = _run(folder, [GOOD], capsys)
    assert code == 0
    assert line["class"] == "development"
    assert set(line) == {
        "id",
        "result",
        "reason",
        "class",
        "not_checked",
        "expected_result",
        "expected_reason",
        "ok",
    }


@pytest.mark.parametrize(
    ("changes", "result", "reason"),
    [
        ({"policy": {}}, "reject", "untrusted_root"),
        ({"inputs": {"nonce": "00" * 32}}, "reject", "nonce_mismatch"),
        ({"verify_at": "2027-01-01T00:00:00Z"}, "reject", "expired"),
        ({"tech": "gcp-nothing"}, "reject", "unsupported"),
        ({"evidence": {"jwks": "jwks.json"}}, "reject", "malformed"),
    ],
)
def test_a_refusal_is_ok_only_where_it_is_expected(
    folder: Path, changes: dict[str, Any], result: str, reason: str
) -> None:
    """The stated result and class are compared, both."""
    case = GOOD | changes
    assert run_case(case, folder.resolve())["ok"] is False
    line = run_case(case | {"expect": result, "reason": reason}, folder.resolve())
    assert (line["result"], line["reason"], line["ok"]) == (result, reason, True)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "link", "missing", "", ".", "a\0b", 7, None]
)
def test_files_outside_the_folder_or_unreadable_are_never_ok(folder: Path, name: Any) -> None:
    """Neither `..`, nor an absolute path, nor a link leads out, whatever is expected."""
    (folder / "link").symlink_to(folder.parent / "outside")
    for expect in ("accept", "reject"):
        for reason in ("ok", "malformed"):
            case = GOOD | {"evidence": {"token": name}, "expect": expect, "reason": reason}
            line = run_case(case, folder.resolve())
            assert line["ok"] is False
            assert line["error"]


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": {"trust": "everybody"}},
        {"policy": {"allow_debgu": True}},
        {"policy": {"allow_debug": "yes"}},
        {"policy": {"accept_tcb": "OutOfDate"}},
        {"policy": []},
        {"inputs": {"nonse": "00"}},
        {"inputs": {"nonce": "xyz"}},
        {"inputs": {"nonce": 7}},
        {"inputs": {"measurements": 7}},
        {"verify_at": "yesterday"},
        {"verify_at": None},
        {"tech": 7},
        {"evidence": ["token.jwt"]},
    ],
)
def test_a_case_that_says_what_nobody_knows_is_never_ok(
    folder: Path, changes: dict[str, Any]
) -> None:
    """A misspelt member is an error and never a default."""
    for expect, reason in (("accept", "ok"), ("reject", "malformed")):
        line = run_case(GOOD | changes | {"expect": expect, "reason": reason}, folder.resolve())
        assert line["ok"] is False


def test_the_main_file_may_have_another_name_where_it_is_the_only_one(folder: Path) -> None:
    """A token that is called otherwise is the token; of two unknown names neither is."""
    named = GOOD | {"evidence": {"eat": "token.jwt", "jwks": "jwks.json"}}
    assert run_case(named, folder.resolve())["ok"] is True
    two = GOOD | {"evidence": {"eat": "token.jwt", "jwt": "token.jwt", "jwks": "jwks.json"}}
    assert run_case(two, folder.resolve())["reason"] == "malformed"


def test_files_that_nobody_reads_are_named(folder: Path) -> None:
    """Evidence is never passed over in silence."""
    (folder / "extra").write_bytes(b"x")
    case = GOOD | {"evidence": {**GOOD["evidence"], "crl": "extra"}}
    line = run_case(case, folder.resolve())
    assert any("crl" in gap for gap in line["not_checked"])


@pytest.mark.parametrize("cases", [[], 7, [{}] * (MAX_CASES + 1), [7], [None]])
def test_a_file_without_cases_is_no_success(
    folder: Path, cases: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that ran nothing ends with 0."""
    code, _ = _run(folder, cases, capsys)
    assert code != 0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"cases": [], "cases": []}'])
def test_a_file_that_is_no_file_of_cases_is_malformed(folder: Path, text: str) -> None:
    """Exit code 3, as for everything that is not understood."""
    path = folder / "cases.json"
    path.write_text(text)
    assert main(["plumbing", "tee-cases", str(path)]) in {1, 3}
