"""What to ask this server for: options that it can deliver, and the one that it recommends.

The stakes decide which options are enough (`appraisal.stakes`), the caller's wishes which of those
fit, and of what fits the cheapest is recommended, of equally cheap ones the soonest. This module
refuses to recommend less than the stakes require, and to count on a figure that nobody measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verispect.appraisal.policy import PRESETS, AssurancePolicy
from verispect.appraisal.policy_lint import Level, lint
from verispect.appraisal.requirement import INSUFFICIENT, atoms
from verispect.appraisal.stakes import StakesRule, ordered
from verispect.core.claims import CLAIMS_OF_A_SIGNATURE, Claim, ClaimSources, Source, combine
from verispect.evidence.attestation import EvidenceClass
from verispect.evidence.signature import CLAIMS as SIGNATURE_CLAIMS
from verispect.gateway.assurance import OWN_POLICY
from verispect.gateway.promising import Forecasts
from verispect.ledger.measured import MeasuredProofs, Spread

ADVICE_VERSION: Final = 1
NOT_MEASURED: Final = "not measured yet"
_TOLERATED_MISSES: Final = 20
"""One promised proof of so many may fail or be late."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a caller wants; `None` where it sets no limit."""

    rule: StakesRule
    answer_milliseconds: int | None = None
    assured_seconds: int | None = None
    budget: int | None = None
    """The most that one request may cost, in the smallest unit of the asset."""
    private: bool = False
    """Whether the operator must not read request and answer."""

    def to_json(self) -> dict[str, Any]:
        """Return what was asked for, as it was understood."""
        return {
            "latency_ms": self.answer_milliseconds,
            "assured_seconds": self.assured_seconds,
            "budget": None if self.budget is None else str(self.budget),
            "privacy": "operator" if self.private else "none",
        }


@dataclass(frozen=True, slots=True)
class Option:
    """One assurance that this server delivers for one model."""

    policy: AssurancePolicy
    words: tuple[str, ...]
    """Whose evidence meets the policy."""
    claims: ClaimSources
    """What that evidence will show."""
    encrypted: bool = False
    """Whether the request is to be sent encrypted."""
    evidence_class: EvidenceClass | None = None
    """Of the attestation, where it is attested."""
    deterministic: bool = False
    """Whether it is to be asked for in the deterministic lane."""
    development: bool = False
    """Whether the receipts are signed with a development key."""
    price: int | None = None
    """The most that the request costs; `None` where nothing is sold."""
    promised: Mapping[str, int] = field(default_factory=dict)
    """By kind of evidence that comes after the answer, seconds until it is due."""
    answer: Spread | None = None
    proofs: MeasuredProofs | None = None

    @property
    def is_proven(self) -> bool:
        """Whether a proof is among the evidence."""
        return "proven" in self.words

    def shortfalls(self, wishes: Wishes) -> list[str]:
        """Return in words why this is not enough for the stakes, or not private."""
        found = wishes.rule.shortfalls(self.policy)
        if self.development and not wishes.rule.development_keys:
            found.append("receipts are signed with a development key")
        if wishes.private:
            if not self.encrypted:
                found.append("the operator can read request and answer")
            elif self.evidence_class is not EvidenceClass.HARDWARE:
                found.append("confidentiality rests on evidence that the operator can forge")
        return found

    def obstacles(self, wishes: Wishes) -> list[str]:
        """Return in words why this does not fit into the caller's limits."""
        found = []
        if wishes.budget is not None and self.price is not None and self.price > wishes.budget:
            found.append(f"may cost {self.price}, above the budget")
        if wishes.answer_milliseconds is not None:
            if self.answer is None:
                found.append(f"the time until the answer is {NOT_MEASURED}")
            elif self.answer.high > wishes.answer_milliseconds:
                found.append(f"answers took up to {self.answer.high} ms")
        if wishes.assured_seconds is not None:
            found += [
                f"{kind} is promised within {seconds} s only"
                for kind, seconds in self.promised.items()
                if seconds > wishes.assured_seconds and not self._is_sooner(kind, wishes)
            ]
        proofs = self.proofs
        if proofs is not None and proofs.missed * _TOLERATED_MISSES > proofs.promised:
            found.append(f"{proofs.missed} of {proofs.promised} promised proofs did not come")
        return found

    def _is_sooner(self, kind: str, wishes: Wishes) -> bool:
        """Tell whether evidence came sooner, by measurement, than it is promised."""
        taken = None if self.proofs is None else self.proofs.milliseconds
        limit = wishes.assured_seconds
        return kind == "proof" and taken is not None and taken.high <= (limit or 0) * 1000

    def to_json(self, wishes: Wishes) -> dict[str, Any]:
        """Return the option as it is shown; a figure of `None` was not measured yet."""
        proofs = self.proofs
        times = None if proofs is None else proofs.milliseconds
        sizes = None if proofs is None else proofs.octets
        measured: dict[str, Any] = {"answer_ms": _shown(self.answer)}
        if self.is_proven:
            measured |= {
                "proof_ms": _shown(times),
                "proof_bytes": _shown(sizes),
                "proofs_promised": 0 if proofs is None else proofs.promised,
                "proofs_missed": 0 if proofs is None else proofs.missed,
            }
        return {
            "name": self.policy.name if self.policy.name != OWN_POLICY else _own_name(self.words),
            "assurance": self.assurance(),
            "policy": self.policy.digest().hex(),
            "lane": "deterministic" if self.deterministic else None,
            "encrypted": self.encrypted,
            "price": None if self.price is None else str(self.price),
            "promised_seconds": dict(self.promised),
            "measured": measured,
            "claims": {
                claim.value: [source.value for source in ordered(sources)]
                for claim, sources in self.claims.items()
            },
            "uncovered": self.uncovered(),
            "shortfalls": self.shortfalls(wishes),
            "obstacles": self.obstacles(wishes),
        }

    def assurance(self) -> str | dict[str, Any]:
        """Return what a request says to have this: a word, or a policy of its own."""
        return self.policy.to_json() if self.policy.name == OWN_POLICY else self.policy.name

    def uncovered(self) -> list[str]:
        """Return what this leaves open, in the words of results and of the linter."""
        lines = [f"{claim.value}: nobody states it" for claim in Claim if claim not in self.claims]
        lines += [
            f"{claim.value}: the operator's word only"
            for claim, sources in self.claims.items()
            if sources == {Source.ASSERTED}
        ]
        if self.development:
            lines.append("the signing key is for development, and protects nothing")
        # Notes speak of what every policy may want to add; weak spots are of this one.
        lines += [found.message for found in lint(self.policy) if found.level is not Level.NOTE]
        return lines


def claims_of(words: Sequence[str], forecasts: Forecasts) -> ClaimSources:
    """Return what the evidence of words will show together with the signature.

    A preset without a forecast, as an audit of a model that is not exact, shows what it requires.
    """
    shown: list[Mapping[Claim, frozenset[Source]]] = [SIGNATURE_CLAIMS]
    for word in words:
        known = forecasts.get(word)
        if known is not None:
            shown.append(known.claims)
            continue
        shown.append(
            {
                claim: sources
                for claim, requirement in PRESETS[word].claims.items()
                if Source.ASSERTED
                not in (sources := frozenset(each.source for each in atoms(requirement)))
            }
        )
    joined = combine(shown)
    stated = (claim for claim in Claim if joined.get(claim, INSUFFICIENT) - INSUFFICIENT)
    return {claim: _beyond_asserted(joined[claim]) for claim in stated}


def _beyond_asserted(sources: frozenset[Source]) -> frozenset[Source]:
    return sources - {Source.ASSERTED} or sources


def recommend(options: Sequence[Option], wishes: Wishes) -> tuple[Option | None, str]:
    """Return the option to take and why, or none and why not.

    Nothing that falls short of the stakes is ever returned, whatever the other wishes are.
    """
    word = wishes.rule.name
    enough = [each for each in options if not each.shortfalls(wishes)]
    if not enough:
        privacy = ", without the operator reading it" if wishes.private else ""
        return None, f"nothing that this server delivers is enough for {word} stakes{privacy}"
    fitting = [each for each in enough if not each.obstacles(wishes)]
    if not fitting:
        why = "; ".join(
            f"{_name(each)}: {', '.join(each.obstacles(wishes))}" for each in enough[:8]
        )
        return None, f"what is enough for {word} stakes does not fit: {why}"
    chosen = min(fitting, key=_order)
    if len(fitting) == 1:
        return chosen, f"the only option that is enough for {word} stakes and fits"
    others = [each for each in fitting if each is not chosen]
    if all((each.price or 0) > (chosen.price or 0) for each in others):
        by = "the cheapest"
    elif all(_wait(each) > _wait(chosen) for each in others):
        by = "the soonest assured"
    else:
        by = "of the cheapest the one with the least evidence to wait for"
    return chosen, f"of {len(fitting)} options that are enough for {word} stakes and fit, {by}"


def _order(option: Option) -> tuple[int, int, int, int]:
    return option.price or 0, _wait(option), len(option.words), len(option.policy.name)


def _wait(option: Option) -> int:
    return max(option.promised.values(), default=0)


def _name(option: Option) -> str:
    return _own_name(option.words) if option.policy.name == OWN_POLICY else option.policy.name


def _own_name(words: Sequence[str]) -> str:
    return f"own policy by {'+'.join(words)}"


def _shown(spread: Spread | None) -> dict[str, int] | None:
    return None if spread is None else spread.to_json()


def reexecuted_only() -> AssurancePolicy:
    """Return `audited` without its statistical alternative, as a policy of the caller's own."""
    audited = PRESETS["audited"]
    computed = (Claim.MODEL, Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION)
    assert set(computed) <= set(CLAIMS_OF_A_SIGNATURE)
    narrowed = {**audited.claims, **dict.fromkeys(computed, frozenset({Source.REEXECUTED}))}
    return AssurancePolicy(name=OWN_POLICY, claims=narrowed)
