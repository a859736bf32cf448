"""The specification of the log and its code say the same: limits, kinds, words, statuses."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

from docs_blocks import ROOT

import verispect.tlog
from verispect.core.encoding import encode
from verispect.tlog import leaf, receipt_leaf, witness
from verispect.tlog.leaf import LeafKind
from verispect.tlog.verdict import Outcome

TEXT = (ROOT / "spec" / "log.md").read_text(encoding="utf-8")
MODULES = [
    importlib.import_module(f"verispect.tlog.{found.name}")
    for found in pkgutil.iter_modules(verispect.tlog.__path__)
]


def test_each_limit_is_the_one_that_the_code_enforces():
    """Every public maximum and version of the room is in the table with its value, and no other."""
    listed = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", TEXT, re.MULTILINE))
    own = {}
    for module in MODULES:
        for name in re.findall(
            r"^(MAX_\w+|[A-Z]+_VERSION): Final", inspect.getsource(module), re.MULTILINE
        ):
            own[name] = str(getattr(module, name))
    assert listed == own


def test_each_kind_is_documented_with_its_number():
    """The table of kinds is that of the code."""
    listed = re.findall(r"^\| (\d) \| `([a-z-]+)` \|", TEXT, re.MULTILINE)
    assert listed == [(str(kind.value), kind.label) for kind in sorted(LeafKind)]


def test_each_content_type_is_documented_beside_its_kind():
    """The content types of signed leaves are those of the code."""
    listed = dict(re.findall(r"^\| (\d) \| `(application/[a-z+-]+)` \|", TEXT, re.MULTILINE))
    assert listed == {str(kind.value): text for kind, text in leaf._CONTENT_TYPES.items()}


def test_each_outcome_is_documented_with_its_number():
    """The words of a verdict are those of the code."""
    for outcome in Outcome:
        assert f"{outcome.value} `{outcome.label}`" in TEXT


def test_the_statuses_of_a_witness_are_those_of_the_code():
    """Each status in the table is one that `decide` gives, in its order."""
    listed = re.findall(r"^\| (\d) \| .* \| (\d{3}) \|$", TEXT, re.MULTILINE)
    assert [status for _, status in listed] == ["404", "403", "400", "409", "409", "422"]
    source = inspect.getsource(witness)
    for _, status in listed:
        assert status in source
    steps = re.findall(r"^ +# (\d)\. ", inspect.getsource(witness.decide), re.MULTILINE)
    assert steps == ["1", "2", "3", "5"]  # 3 and 4 are one comment.


def test_the_words_that_are_hashed_are_those_of_the_text():
    """The domains of the model's commitment are published."""
    for domain in (receipt_leaf._SALT_DOMAIN, receipt_leaf._MODEL_DOMAIN):
        assert f'"{domain.decode()}"' in TEXT


def test_what_is_signed_for_a_receipt_begins_no_text():
    """The first byte of a Sig_structure is the one in the text, and no UTF-8 begins with it."""
    assert encode(["Signature1", b"", b"", b""])[0] == 0x84
    assert "`84`" in TEXT
