"""The assurance policy: denies by default, refuses what is not understood, prints in full."""

from __future__ import annotations

import pytest

from verispect.appraisal.policy import (
    MAX_POLICY_CHARACTERS,
    PRESETS,
    SIGNED,
    AssurancePolicy,
)
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, Source
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import ModelIdentity

ASSERTED = frozenset({Source.ASSERTED})


@pytest.mark.parametrize("source", [Source.UNSTATED, Source.REFUTED])
def test_what_shows_nothing_never_suffices(source):
    """A policy built in code cannot name unstated or refuted as sufficient either."""
    with pytest.raises(ValueError, match="never suffice"):
        AssurancePolicy("a", {Claim.LOGGED: frozenset({source, Source.LOGGED})})


@pytest.mark.parametrize("name", ["", "-", "a b", 'a"', 'a"\nnonce = true', "é", "a" * 65, "²"])
def test_name_cannot_forge_the_printed_policy(name):
    """A name that could add a line to the printed form is refused where it is made."""
    with pytest.raises(ValueError, match="policy name"):
        AssurancePolicy(name, {Claim.MODEL: ASSERTED})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_print_in_full(name):
    """What a preset stands for can be printed, read again, and is the same policy."""
    preset = PRESETS[name]
    again = AssurancePolicy.from_toml(preset.to_toml())
    assert (preset.name, again, again.digest()) == (name, preset, preset.digest())


def test_signed_requires_every_claim_of_a_signature():
    """The weakest preset still requires all that a signature can show, and nothing beyond."""
    assert set(SIGNED.claims) == set(CLAIMS_OF_A_SIGNATURE)
    assert SIGNED.unmet(dict.fromkeys(CLAIMS_OF_A_SIGNATURE, ASSERTED)) == []
    for claim in CLAIMS_OF_A_SIGNATURE:
        achieved = dict.fromkeys(set(CLAIMS_OF_A_SIGNATURE) - {claim}, ASSERTED)
        assert SIGNED.unmet(achieved) == [claim]


def test_required_claim_without_source_is_never_met():
    """A claim that is required with no sufficient source is unmet, whatever is achieved."""
    policy = AssurancePolicy("a", {Claim.MODEL: frozenset(), Claim.INPUT: ASSERTED})
    everything = dict.fromkeys(Claim, frozenset({Source.PROVEN, Source.ASSERTED}))
    assert policy.unmet(everything) == [Claim.MODEL]
    assert AssurancePolicy("a", {Claim.MODEL: frozenset()}).is_empty()


def test_digest_covers_every_field_but_the_name():
    """Two policies that require different things never share a digest; names do not matter."""
    base = AssurancePolicy("a", {Claim.MODEL: ASSERTED})
    assert AssurancePolicy("b", base.claims).digest() == base.digest()
    others = [
        AssurancePolicy("a", {Claim.INPUT: ASSERTED}),
        AssurancePolicy("a", {Claim.MODEL: frozenset({Source.PROVEN})}),
        AssurancePolicy("a", {Claim.MODEL: ASSERTED, Claim.INPUT: ASSERTED}),
        AssurancePolicy("a", base.claims, nonce_required=True),
        AssurancePolicy("a", base.claims, maximum_age_seconds=1),
        AssurancePolicy("a", base.claims, model_identities=frozenset(ModelIdentity)),
        AssurancePolicy("a", base.claims, accepted_models_only=True),
        AssurancePolicy("a", base.claims, development_keys=True),
    ]
    assert len({policy.digest() for policy in [base, *others]}) == len(others) + 1


def test_size_is_limited():
    """A policy beyond the limit is refused before it is parsed."""
    with pytest.raises(MalformedError) as caught:
        AssurancePolicy.from_toml("#" * (MAX_POLICY_CHARACTERS + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_what_can_be_read_can_be_read_again_in_full():
    """Names that stand for long lists make no policy that its own printed form is too large for."""
    names = [f"{number:0256d}" for number in range(256)]
    nodes = [{"source": "reexecuted", "nodes": k, "nodes_among": ["@b"]} for k in range(1, 5)]
    document = {"version": 1, "name": "a", "claims": {"output": nodes}, "roots": {"b": names}}
    with pytest.raises(MalformedError) as caught:
        AssurancePolicy.from_document(document)
    assert caught.value.reason is Reason.TOO_LARGE
    document["claims"]["output"].pop()
    policy = AssurancePolicy.from_document(document)
    assert AssurancePolicy.from_toml(policy.to_toml()).digest() == policy.digest()
