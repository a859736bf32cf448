"""The specification of transactions and its code say the same; references are what they say."""

from __future__ import annotations

import inspect
import re
import struct
from contextlib import suppress

import pytest
from docs_blocks import ROOT
from hypothesis import given
from hypothesis import strategies as st

from verispect.appraisal import references, transaction
from verispect.appraisal.references import check_dependency, committed_value, in_form
from verispect.core import transaction as statement
from verispect.core import transaction_files
from verispect.core.commitments import Opening, Part
from verispect.core.encoding import sha256
from verispect.core.errors import RequestError, VerificationError
from verispect.core.transaction import Dependency, TransactionOutcome, ValueForm

TEXT = (ROOT / "spec" / "transaction.md").read_text(encoding="utf-8")
DIGEST = sha256(b"commitment")


def test_each_limit_is_the_one_that_the_code_enforces():
    """Every public maximum and version is in the table with its value, and no other."""
    listed = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", TEXT, re.MULTILINE))
    own = {}
    for module in (statement, transaction_files):
        source = inspect.getsource(module)
        for name in re.findall(r"^(MAX_\w+|[A-Z]+_VERSION): Final", source, re.MULTILINE):
            own[name] = str(getattr(module, name))
    assert listed == own


def test_the_steps_are_those_of_the_verifier():
    """The numbered steps of the text are the numbered comments of `appraise`."""
    source = inspect.getsource(transaction.TransactionVerifier.appraise)
    commented = re.findall(r"(\d+)\. ", "".join(re.findall(r"# .*", source)))
    section = TEXT.split("## 6. Judging")[1].split("## 7.")[0]
    assert commented == re.findall(r"^(\d+)\. ", section, re.MULTILINE)


def test_the_outcomes_and_domains_are_those_of_the_text():
    """Numbers, names and what is hashed are published."""
    for outcome in TransactionOutcome:
        assert f"| {outcome.value} | `{outcome.label}` |" in TEXT
    for domain in re.findall(r'b"(verispect-[a-z0-9-]+)"', inspect.getsource(statement)):
        assert f'"{domain}"' in TEXT


def test_each_path_of_the_text_is_one_that_the_code_knows():
    """The table of what can be named is that of the code."""
    section = TEXT.split("| interface | path |")[1].split("`as` is")[0]
    listed = re.findall(r"`(/[^`]*)`", section.replace("`, `", "` `"))
    for operation, sources in references._SOURCES.items():
        for _, part, pointer in sources:
            place = pointer.format("{i}", "{k}" if operation == "infer" else "{j}")
            assert place in listed, (operation, part, place)


def opening(part, content):
    return Opening.of(part, content, salt=bytes(32))


def link(source_pointer, target_pointer, form=ValueForm.SAME):
    return Dependency(
        0, Part.OUTPUT, source_pointer, DIGEST, Part.EFFECTIVE_INPUT, target_pointer, DIGEST, form
    )


floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20)


@given(values=floats)
def test_numbers_go_from_tensor_to_tensor_unchanged(values):
    """What one tensor gave is what the next one got, also in a wider datatype; nothing else is."""
    fed = opening(
        Part.OUTPUT, [["y", "FP32", [len(values)], struct.pack(f"<{len(values)}f", *values)]]
    )
    same = [
        ["other", "FP32", [0], b""],
        ["x", "FP64", [len(values)], struct.pack(f"<{len(values)}d", *values)],
    ]
    dependency = link("/0/data", "/=x/data")
    check_dependency(dependency, fed, opening(Part.EFFECTIVE_INPUT, same))
    more = [["x", "FP64", [1], struct.pack(f"<{len(values) + 1}d", *values, 1.5)]]
    with pytest.raises(VerificationError):
        check_dependency(dependency, fed, opening(Part.EFFECTIVE_INPUT, more))


@given(text=st.text(max_size=40), other=st.text(max_size=40))
def test_text_goes_as_it_is(text, other):
    """Exactly the earlier text fits."""
    fed, into = opening(Part.OUTPUT, [text]), opening(Part.EFFECTIVE_INPUT, {"inputs": [other]})
    if text == other:
        check_dependency(link("/0", "/inputs/0"), fed, into)
    else:
        with pytest.raises(VerificationError):
            check_dependency(link("/0", "/inputs/0"), fed, into)


def test_a_number_that_json_has_not_becomes_no_text():
    """NaN and infinities have no JSON text, and are refused rather than guessed."""
    for value in (float("nan"), [float("inf")]):
        with pytest.raises(RequestError):
            in_form(value, ValueForm.TEXT)
    assert in_form([0.5, 2, 1e-7], ValueForm.TEXT) == "[0.5,2,1e-07]"


@pytest.mark.parametrize("pointer", ["x", "/1", "/00x", "/-1", "/0/0", "/=no", "/0/data"])
def test_where_nothing_stands_nothing_is_taken(pointer):
    """Every place that is not there is refused."""
    with pytest.raises(RequestError):
        committed_value(["text"], pointer)


@given(
    content=st.recursive(
        st.none() | st.text() | st.binary() | st.integers(0, 9),
        lambda each: (
            st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=3), each, max_size=3)
        ),
        max_leaves=12,
    ),
    pointer=st.text("/=~01dataxy", max_size=12),
)
def test_a_hostile_pointer_ends_in_our_error(content, pointer):
    """Whatever is committed and wherever a pointer points, there is a value or a refusal."""
    with suppress(RequestError):
        committed_value(content, pointer)
