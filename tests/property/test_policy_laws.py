"""The laws of assurance policies, for requirements of any shape and evidence of any kind."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from verispect.appraisal.assurance_policy import AssurancePolicy, conjunction
from verispect.appraisal.requirement import AllOf, AnyOf, Atom, all_of, any_of
from verispect.core.claims import Claim, Source, combine
from verispect.evidence.attestation import DEFAULT_ATTESTATION_POLICY, EvidenceClass
from verispect.evidence.interface import EvidenceAppraisal, EvidenceFacts

NAMES = st.frozensets(st.sampled_from(["a", "b", "c"]), min_size=1)
CLAIMS = (Claim.MODEL, Claim.EXECUTION, Claim.TIME)
PLAIN = st.sampled_from(sorted(set(Source) - {Source.UNSTATED, Source.REFUTED})).map(Atom)
NODES = NAMES.flatmap(
    lambda names: st.integers(1, len(names)).map(
        lambda k: Atom(Source.REEXECUTED, nodes=k, nodes_among=names)
    )
)
CONDITIONED = st.one_of(
    NODES,
    st.builds(
        Atom,
        st.just(Source.HARDWARE),
        classes=st.frozensets(st.sampled_from(list(EvidenceClass))),
        maximum_age_seconds=st.none() | st.integers(1, 5),
        per_inference=st.booleans(),
    ),
    st.builds(
        Atom,
        st.just(Source.PROVEN),
        modes=st.frozensets(st.sampled_from(["succinct", "zero-knowledge"])),
        within_seconds=st.none() | st.integers(1, 5),
    ),
)
REQUIREMENTS = st.recursive(
    PLAIN | CONDITIONED,
    lambda inner: st.builds(
        lambda join, members: join(members),
        st.sampled_from([any_of, all_of]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)
REQUIRED = st.dictionaries(st.sampled_from(CLAIMS), REQUIREMENTS, min_size=1)
FACTS = st.builds(
    EvidenceFacts,
    established_at=st.none() | st.integers(-6000, 6000),
    affirming=st.dictionaries(
        st.tuples(st.sampled_from(CLAIMS), st.just(Source.REEXECUTED)), NAMES
    ),
    per_inference=st.booleans(),
    proof_mode=st.none() | st.sampled_from(["succinct", "zero-knowledge"]),
)
SHOWN = st.dictionaries(
    st.sampled_from(CLAIMS),
    st.frozensets(st.sampled_from(sorted(set(Source) - {Source.UNSTATED})), max_size=3),
)
EVIDENCE = st.lists(
    st.builds(
        EvidenceAppraisal,
        st.just(()),
        SHOWN,
        st.just(()),
        st.none() | st.sampled_from(list(EvidenceClass)),
        FACTS,
    ),
    max_size=4,
)


def unmet(policy: AssurancePolicy, evidence: list[EvidenceAppraisal]) -> set[Claim]:
    achieved = combine(each.claims for each in evidence)
    return set(policy.unmet(achieved, evidence, signed_at=0))


@given(EVIDENCE)
def test_an_empty_policy_and_an_empty_join_are_never_met(evidence):
    """Empty denies, at the top and inside."""
    for nothing in (AnyOf(()), AllOf(()), all_of([]), any_of([])):
        policy = AssurancePolicy("a", {Claim.MODEL: nothing})
        assert policy.is_empty()
        assert unmet(policy, evidence) == {Claim.MODEL}
    assert AssurancePolicy("a", {}).is_empty()


@given(REQUIRED, st.sampled_from(CLAIMS), REQUIREMENTS, EVIDENCE)
def test_a_further_requirement_never_accepts_more(required, claim, further, evidence):
    """What a policy refuses stays refused when it requires more."""
    own = [required[claim]] if claim in required else []
    stricter = AssurancePolicy("b", {**required, claim: all_of([*own, further])})
    assert unmet(AssurancePolicy("a", required), evidence) <= unmet(stricter, evidence)


@given(REQUIRED, EVIDENCE)
def test_a_fact_that_is_not_known_never_helps(required, evidence):
    """The same evidence without its facts and its class meets no more."""
    policy = AssurancePolicy("a", required)
    bare = [replace(each, facts=EvidenceFacts(), evidence_class=None) for each in evidence]
    assert unmet(policy, evidence) <= unmet(policy, bare)
    unknown = EvidenceAppraisal((), {}, ("unknown",))
    assert unmet(policy, [*evidence, unknown]) == unmet(policy, evidence)


@given(REQUIRED, EVIDENCE, st.randoms(use_true_random=False))
def test_order_does_not_matter(required, evidence, order: random.Random):
    """Neither the order of evidence nor that of members or claims changes answer or digest."""
    shuffled = list(evidence)
    order.shuffle(shuffled)
    policy = AssurancePolicy("a", required)
    turned = AssurancePolicy(
        "b",
        {
            claim: type(each)(tuple(reversed(each.members))) if not isinstance(each, Atom) else each
            for claim, each in reversed(required.items())
        },
    )
    assert turned.digest() == policy.digest()
    assert unmet(turned, shuffled) == unmet(policy, evidence)


@given(REQUIRED, REQUIRED, EVIDENCE)
def test_a_sum_accepts_what_both_accept(first, second, evidence):
    """A conjunction is met exactly where both of its parts are."""
    one, other = AssurancePolicy("a", first), AssurancePolicy("b", second)
    claims = {
        claim: all_of(each[claim] for each in (first, second) if claim in each)
        for claim in {*first, *second}
    }
    both = AssurancePolicy("c", claims)
    assert unmet(both, evidence) == unmet(one, evidence) | unmet(other, evidence)
    tolerant = replace(DEFAULT_ATTESTATION_POLICY, accepted_classes=frozenset(EvidenceClass))
    joined = conjunction("c", [one, other], attestation=tolerant)
    assert joined.digest() == replace(both, attestation=tolerant).digest()


@given(REQUIRED)
def test_a_policy_comes_back_from_both_of_its_forms(required):
    """Printed as TOML or JSON and read again it has the same digest, where it can be met at all."""
    policy = AssurancePolicy(
        "a",
        required,
        attestation=replace(DEFAULT_ATTESTATION_POLICY, accepted_classes=frozenset(EvidenceClass)),
    )
    assert AssurancePolicy.from_toml(policy.to_toml()).digest() == policy.digest()
    assert AssurancePolicy.from_document(policy.to_json()).digest() == policy.digest()
