"""The specification and the code say the same: versions, limits, steps, parts, words, codes."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from types import ModuleType

import pytest
from docs_blocks import ROOT, blocks

from verispect.appraisal import policy, trusted_root, verifier
from verispect.appraisal.policy import PRESETS, AssurancePolicy
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core import commitments, encoding, envelope, receipt, statement, stream
from verispect.core import errors as core_errors
from verispect.core.claims import Claim, Source
from verispect.core.commitments import Opening, Part
from verispect.core.errors import Reason
from verispect.core.statement import Determinism, InferenceStatement, ModelIdentity, ServedLane
from verispect.gateway import errors as gateway_errors
from verispect.gateway.inference import INTERIM_EVERY_CHUNKS
from verispect.gateway.routes import _ROUTES

SPEC = ROOT / "spec"

_MODULES: dict[str, ModuleType] = {
    "encoding": encoding,
    "commitment": commitments,
    "statement": statement,
    "envelope": envelope,
    "stream": stream,
    "trusted-root": trusted_root,
    "policy": policy,
    "verification": verifier,
}
_FILES = sorted(path.stem for path in SPEC.glob("*.md") if path.stem != "README")


def _text(name: str) -> str:
    return (SPEC / f"{name}.md").read_text(encoding="utf-8")


def _rows(name: str, *, columns: int) -> list[list[str]]:
    lines = [line for line in _text(name).splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if len(row) == columns]


@pytest.mark.parametrize("name", _FILES)
def test_each_file_begins_with_its_name_and_version(name: str) -> None:
    """The first line names the format and its version."""
    assert re.fullmatch(rf"# verispect-{name}@v\d+", _text(name).splitlines()[0])


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("statement", statement.STATEMENT_VERSION),
        ("policy", policy.POLICY_VERSION),
        ("trusted-root", trusted_root.TRUSTED_ROOT_VERSION),
        ("commitment", int(commitments._DOMAIN.rpartition(b"-v")[2])),
        ("stream", int(stream._DOMAIN.rpartition(b"-v")[2])),
    ],
)
def test_the_version_is_that_of_the_code(name: str, version: int) -> None:
    """Text and code are of the same version."""
    assert _text(name).splitlines()[0] == f"# verispect-{name}@v{version}"


@pytest.mark.parametrize("name", sorted(_MODULES))
def test_each_limit_is_the_one_that_the_code_enforces(name: str) -> None:
    """A row whose first cell is a constant's name gives its value; public maxima are all there."""
    module = _MODULES[name]
    listed = {
        row[0].strip("`"): row[1]
        for row in _rows(name, columns=3)
        if re.fullmatch(r"`[A-Z_]+`", row[0])
    }
    for constant, value in listed.items():
        assert str(getattr(module, constant)) == value, constant
    maxima = {constant for constant in vars(module) if constant.startswith("MAX_")}
    own = {
        each
        for each in maxima
        if re.search(rf"^{each}: Final", inspect.getsource(module), re.MULTILINE)
    }
    assert own <= listed.keys(), "an undocumented limit"


def test_the_limit_of_evidence_is_the_one_in_the_text() -> None:
    """The envelope's text gives the limit that `core.receipt` enforces."""
    assert f"at most {receipt.MAX_EVIDENCE_BYTES} bytes each" in _text("envelope")
    assert receipt.MAX_KIND_CHARACTERS == envelope.MAX_SUBJECT_CHARACTERS == 64


def test_each_part_is_documented_with_its_number() -> None:
    """The table of parts has every part, and no other."""
    listed = {
        (int(row[0]), row[1].strip("`"))
        for row in _rows("commitment", columns=3)
        if row[0].isdigit()
    }
    assert listed == {(part.value, part.label) for part in Part}


def test_the_example_of_a_commitment_is_right() -> None:
    """The published example can be recomputed."""
    opening = Opening.of(Part.SYSTEM_PROMPT, "Be brief.", salt=bytes(range(32)))
    assert opening.commitment().hex() in _text("commitment")


def test_the_examples_of_encodings_are_right() -> None:
    """The table of content values is what the encoder makes."""
    rows = [row for row in _rows("encoding", columns=2) if re.fullmatch(r"`[0-9a-f]+`", row[1])]
    assert len(rows) >= 5
    for value, encoded in rows:
        assert encoding.encode_content(json.loads(value.strip("`"))).hex() == encoded.strip("`")


def test_the_example_of_a_chain_is_right() -> None:
    """The two heads in the text are those of the chain."""
    chain = stream.StreamChain(bytes(16))
    assert chain.binding().head.hex() in _text("stream")
    chain.absorb(b"{}")
    assert chain.binding().head.hex() in _text("stream")
    assert f"After every {INTERIM_EVERY_CHUNKS} chunks" in _text("stream")


def test_each_field_of_a_statement_is_documented_with_its_key() -> None:
    """The table of fields has every key that the code reads, under the dataclass's name."""
    listed = {int(row[0]): row[1] for row in _rows("statement", columns=3) if row[0].isdigit()}
    assert set(listed) == statement._REQUIRED | statement._OPTIONAL
    fields = set(InferenceStatement.__dataclass_fields__)
    assert set(listed.values()) == fields


def test_the_words_of_a_model_row_are_those_of_the_code() -> None:
    """Identity, determinism and lane are listed with their numbers."""
    text = _text("statement")
    for member in (*ModelIdentity, *Determinism, *ServedLane):
        assert f"{member.value} `{member.label}`" in text


def test_each_claim_and_source_is_documented() -> None:
    """The vocabulary of assurance is complete in the text."""
    words = [row[0].strip("`") for row in _rows("policy", columns=2)]
    expected = ["claim", *Claim, "source", *Source]
    assert words[: len(expected)] == expected


def test_each_preset_is_documented_with_its_digest() -> None:
    """A preset's name and digest stand in one row."""
    for name, preset in PRESETS.items():
        assert f"| `{name}` | `{preset.digest().hex()}` |" in _text("policy")


def test_the_example_policy_and_root_are_well_formed() -> None:
    """What the text shows as an example is accepted by the code."""
    example = next(block for block in blocks(SPEC / "policy.md") if block.kind == "toml")
    tomllib.loads(example.text)
    assert not AssurancePolicy.from_toml(example.text).is_empty()
    example = next(block for block in blocks(SPEC / "trusted-root.md") if block.kind == "json")
    assert TrustedRoot.from_json(example.text.encode()).issuer_keys


def test_the_steps_are_those_of_the_verifier() -> None:
    """The numbered steps of the text are the numbered comments of `appraise`."""
    commented = re.findall(r"# (\d+)\. ", inspect.getsource(verifier.Verifier.appraise))
    written = re.findall(r"^## Step (\d+):", _text("verification"), re.MULTILINE)
    assert written == commented


def test_each_reason_that_the_verifier_gives_stands_in_its_steps() -> None:
    """A reason in the verifier's source, or in the signature kind's, is in the text of a step."""
    from verispect.evidence import signature

    source = inspect.getsource(verifier) + inspect.getsource(signature)
    for name in set(re.findall(r"Reason\.([A-Z_]+)", source)):
        assert f"`{Reason[name].value}`" in _text("verification"), name


def _reasons() -> dict[str, list[str]]:
    return {row[0].strip("`"): row for row in _rows("reason-codes", columns=5)[0:] if "`" in row[0]}


def test_each_reason_is_documented_and_no_other() -> None:
    """The page of reason codes is complete, in the order of the code."""
    assert list(_reasons()) == [reason.value for reason in Reason]


def test_each_documented_class_exists() -> None:
    """The classes named beside the codes are those of the error tree."""
    for row in _reasons().values():
        for name in re.findall(r"`(\w+Error)`", row[1]):
            assert issubclass(getattr(core_errors, name), core_errors.Error)


def test_the_documented_exit_codes_are_those_of_the_classes() -> None:
    """An exit code beside a reason is what the command line gives for its class."""
    from verispect.cli.main import exit_code

    for code, row in _reasons().items():
        if not row[2]:
            continue
        first = re.findall(r"`(\w+Error)`", row[1])[0]
        error = getattr(core_errors, first)("x", reason=Reason(code))
        assert exit_code(error) == int(row[2]), code


def test_the_documented_statuses_are_those_of_the_gateway() -> None:
    """A status that the gateway fixes for a reason is the one in the table."""
    documented = _reasons()
    for reason, status in gateway_errors._STATUS_OF_REASON.items():
        assert str(status) in documented[reason.value][3].split(", "), reason


def test_each_route_is_documented() -> None:
    """Every path that the gateway answers stands in the text."""
    for route in _ROUTES:
        assert route.pattern.replace("{path}", "models/{name}/infer") in _text("http"), (
            route.pattern
        )


def test_each_header_is_documented() -> None:
    """Every header of ours that the gateway's source names stands in the text."""
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "src/verispect/gateway").glob("*.py")
    )
    named = set(re.findall(r"\"(verispect-[a-z]+(?:-[a-z]+)*)\"", source)) - {"verispect-interim"}
    assert len(named) >= 6
    text = _text("http").lower()
    for header in named:
        assert f"`{header}`" in text, header
