"""What a hostile operator, or whoever hands a receipt on, tries on the verifier."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import material

from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Expected, Verifier
from verispect.core.commitments import Opening, Part, decode_openings
from verispect.core.encoding import encode
from verispect.core.envelope import STATEMENT_TYPE, STREAM_TYPE, open_envelope
from verispect.core.errors import Error, MalformedError, Reason
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import PromisedEvidence
from verispect.core.stream import open_interim, sign_interim

ROOT = TrustedRoot.from_json(material.trusted_root().encode())
CASES = sorted((Path(__file__).parents[2] / "vectors" / "verification").glob("*.json"))


def appraise(data, *, opened=None, expected=None, policy=SIGNED):
    return Verifier(ROOT).appraise(
        InferenceReceipt.parse(data),
        opened=opened or {},
        policy=policy,
        now=material.NOW,
        expected=expected or Expected(),
    )


def endless():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "shown",
    ["\ud800", float("nan"), 1 << 100, endless(), {"a": object()}, {1: 2, "a": 3}, {None: 1}],
    ids=["surrogate", "nan", "huge", "deep", "object", "mixed", "null-key"],
)
def test_shown_content_without_encoding_is_a_mismatch(shown):
    """An answer that cannot be encoded was never committed to: the verifier says no, no more."""
    result = appraise(
        material.receipt(),
        opened=decode_openings(material.openings()),
        expected=Expected(parts={Part.OUTPUT: shown}),
    )
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.CONTENT_MISMATCH)


@pytest.mark.parametrize("text", ["a\nOK: verified", "\x1b[2J", "\u202edeifirev", "a\0", "\u2028"])
def test_names_in_a_receipt_cannot_forge_a_line_on_a_terminal(text):
    """Names that would break out of their line are refused before anything prints them."""
    forged = [
        lambda: material.receipt(requested_model=text),
        lambda: material.receipt(operation=text),
        lambda: material.receipt(finish_reasons=[text]),
        lambda: material.receipt(evidence=[PromisedEvidence(text)]),
        lambda: material.sign1(
            material.statement().encode(),
            protected=encode(material.protected_map() | {15: {1: text, 2: "b"}}),
        ),
        lambda: material.sign1(
            material.statement().encode(), unprotected=encode({-70001: [[text, "p", 0, b"", b""]]})
        ),
    ]
    for make in forged:
        with pytest.raises(MalformedError):
            InferenceReceipt.parse(make())


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_explanations_hold_no_content(path):
    """Whatever goes wrong, checks and errors quote neither prompts nor outputs nor secrets."""
    case = json.loads(path.read_text())
    members = case.get("expected", {})
    try:
        opened = decode_openings(bytes.fromhex(case.get("openings", material.openings().hex())))
        result = Verifier(TrustedRoot.from_json(case["trustedRoot"].encode())).appraise(
            InferenceReceipt.parse(bytes.fromhex(case["receipt"])),
            opened=opened,
            policy=AssurancePolicy.from_toml(case["policy"]),
            now=case["now"],
            expected=Expected(
                parts={
                    Part[label.upper()]: value for label, value in members.get("parts", {}).items()
                }
            ),
        )
        said = json.dumps(result.to_json(), ensure_ascii=False)
    except Error as error:
        said = str(error)
    for words in ("Hell", "You are terse", "Say hello", "temperature"):
        assert words not in said
    assert said.isprintable()


def test_a_signature_over_a_stream_is_no_receipt():
    """An interim signature is not taken for a statement, nor a statement for an interim one."""
    binding = material.statement().stream
    interim = sign_interim(
        binding, issuer=material.ISSUER, subject=material.SUBJECT, signer=material.GOOD
    ).encode()
    assert open_interim(interim)[1] == binding
    with pytest.raises(MalformedError):
        InferenceReceipt.parse(interim)
    with pytest.raises(MalformedError):
        open_interim(material.receipt())
    with pytest.raises(MalformedError):
        open_envelope(material.receipt(), content_type=STREAM_TYPE)
    assert open_envelope(material.receipt(), content_type=STATEMENT_TYPE)


def test_an_opening_under_another_part_opens_nothing():
    """Content of one part cannot be shown as another, by its key or by its bytes."""
    openings = decode_openings(material.openings())
    moved = {Part.SYSTEM_PROMPT: openings[Part.OUTPUT]}
    assert appraise(material.receipt(), opened=moved).reason is Reason.OPENING_UNCOMMITTED
    renamed = {Part.SYSTEM_PROMPT: replace(openings[Part.OUTPUT], part=Part.SYSTEM_PROMPT)}
    assert appraise(material.receipt(), opened=renamed).reason is Reason.OPENING_MISMATCH


def test_a_salt_of_another_length_opens_nothing():
    """HMAC pads a key with zeros, so a longer salt would open the same commitment."""
    opening = Opening.of(Part.OUTPUT, "a", salt=bytes(32))
    longer = replace(opening, salt=bytes(33))
    assert longer.commitment() == opening.commitment()
    opening.check(opening.commitment())
    with pytest.raises(Error) as caught:
        longer.check(opening.commitment())
    assert caught.value.reason is Reason.OPENING_MISMATCH
    with pytest.raises(ValueError, match="32 bytes"):
        Opening.of(Part.OUTPUT, "a", salt=b"short")


def test_a_receipt_full_of_tiny_items_is_refused_at_once():
    """Sixteen megabytes of empty arrays would be a gigabyte of objects; none is built."""
    entries = b"\x9a" + (1 << 23).to_bytes(4, "big") + b"\x80" * (1 << 23)
    label = encode(-70001)
    data = material.sign1(material.statement().encode(), unprotected=b"\xa1" + label + entries)
    with pytest.raises(MalformedError) as caught:
        InferenceReceipt.parse(data)
    assert caught.value.reason is Reason.TOO_LARGE


def test_evidence_is_not_shown_as_another_kind():
    """Whoever hands a receipt on cannot relabel its evidence."""
    row = ["example", "example-v1", 0, b"body", b""]
    digest = EvidenceEntry.from_row(row).digest()
    promised = [PromisedEvidence("signature"), PromisedEvidence("example", digest)]
    payload = material.statement(evidence=promised).encode()
    for changed in (["nitro", *row[1:]], [row[0], "other-v1", *row[2:]], [*row[:2], 1, *row[3:]]):
        data = material.sign1(payload, unprotected=encode({-70001: [changed]}))
        assert appraise(data).reason is Reason.EVIDENCE_UNBOUND


def test_every_single_byte_replaced_is_survived():
    """Every byte of a receipt set to values that start another CBOR item: our error, or no."""
    good = material.receipt()
    for position in range(len(good)):
        for value in (0x00, 0x1B, 0x5F, 0x9B, 0xBB, 0xC4, 0xD8, 0xF6, 0xFB, 0xFF):
            if good[position] == value:
                continue
            changed = good[:position] + bytes((value,)) + good[position + 1 :]
            with suppress(Error):
                assert appraise(changed).verdict is Verdict.REFUSED
