"""From a policy to the evidence that a server promises: the least that suffices, or a refusal."""

from __future__ import annotations

import pytest

from verispect.appraisal.policy import ATTESTED, LOGGED, PROVEN, SIGNED, AssurancePolicy, expand
from verispect.appraisal.requirement import Atom
from verispect.core.claims import Claim, Source
from verispect.core.errors import Reason, RequestError
from verispect.core.statement import ModelIdentity
from verispect.gateway.promising import (
    choose_words,
    forecast_log,
    forecast_proof,
    forecast_verdicts,
)

LOCAL = ModelIdentity.LOCAL_WEIGHTS
FORECASTS = {
    "logged": forecast_log(
        origin="log", witnesses=["w1", "w2", "w3"], threshold=2, milliseconds=60_000
    ),
    "audited": forecast_verdicts(nodes=["a", "b", "c"], threshold=2, milliseconds=3_600_000),
    "proven": forecast_proof(seconds=600),
}


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (SIGNED, ()),
        (LOGGED, ("logged",)),
        (PROVEN, ("proven",)),
        (expand("proven+logged"), ("logged", "proven")),
        (expand("audited+proven"), ("logged", "audited", "proven")),
        (AssurancePolicy("a", {Claim.TIME: Atom(Source.LOGGED, witnesses=2)}), ("logged",)),
        (AssurancePolicy("a", {Claim.MODEL: Atom(Source.REEXECUTED, nodes=2)}), ("audited",)),
    ],
)
def test_the_least_that_suffices_is_promised(policy, words):
    """Each policy gets the evidence it needs, and no more."""
    assert choose_words(policy, FORECASTS, LOCAL) == words


@pytest.mark.parametrize(
    "policy",
    [
        ATTESTED,
        AssurancePolicy("a", {}),
        AssurancePolicy("a", {Claim.TIME: Atom(Source.LOGGED, witnesses=3)}),
        AssurancePolicy("a", {Claim.TIME: Atom(Source.LOGGED, within_seconds=59)}),
        AssurancePolicy("a", {Claim.TIME: Atom(Source.LOGGED, roots=frozenset({"another"}))}),
        AssurancePolicy(
            "a",
            {Claim.MODEL: Atom(Source.REEXECUTED, nodes=2, nodes_among=frozenset({"a", "b"}))},
        ),
    ],
)
def test_what_is_not_certain_is_refused_and_the_rest_is_named(policy):
    """A witness, a node or a time that may be missing is never promised."""
    with pytest.raises(RequestError) as caught:
        choose_words(policy, FORECASTS, LOCAL)
    assert caught.value.reason is Reason.ASSURANCE_UNAVAILABLE
    assert "available here: signed, logged, audited, proven" in caught.value.message


def test_a_model_that_is_only_a_name_is_refused():
    """A policy that wants loaded weights is not met by an upstream's model."""
    with pytest.raises(RequestError) as caught:
        choose_words(PROVEN, FORECASTS, ModelIdentity.UPSTREAM_REPORTED)
    assert caught.value.reason is Reason.ASSURANCE_UNAVAILABLE
