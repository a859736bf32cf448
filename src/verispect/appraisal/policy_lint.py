"""Weak spots of a policy, named in words (docs/policy.md).

`RULES` is the whole table: a code for machines, how bad it is, the words, and a question that is
put to the policy. The linter refuses nothing and changes no verdict: a policy that it complains
about is applied as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from verispect.appraisal import policy_questions as ask
from verispect.appraisal.assurance_policy import AssurancePolicy
from verispect.core.claims import Claim, Source
from verispect.core.statement import ModelIdentity


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """No receipt can ever meet the policy."""
    WEAK = "weak"
    """It accepts less than it seems to require."""
    NOTE = "note"
    """It leaves something open; who wants that may leave it so."""


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One weak spot of one policy."""

    code: str
    level: Level
    message: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON view."""
        return {
            "code": self.code,
            "level": self.level.value,
            "message": self.message,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class LintRule:
    """One row of the table."""

    code: str
    level: Level
    message: str
    """In words; `{}` stands for the claims, or other words, that the rule found."""
    remedy: str
    find: Callable[[AssurancePolicy], list[str] | bool]
    """What it found, one word each, or whether it found anything."""

    def apply(self, policy: AssurancePolicy) -> LintFinding | None:
        """Return what this rule has to say about a policy."""
        found = self.find(policy)
        if not found:
            return None
        words = "" if found is True else ", ".join(f"`{word}`" for word in found)
        return LintFinding(self.code, self.level, self.message.format(words), self.remedy)


def lint(policy: AssurancePolicy) -> list[LintFinding]:
    """Return the weak spots of a policy, in the order of the table."""
    return [found for rule in RULES if (found := rule.apply(policy)) is not None]


RULES: Final = (
    LintRule(
        "empty",
        Level.ERROR,
        "requires nothing, so every receipt is refused",
        "list at least one claim under [claims]",
        AssurancePolicy.is_empty,
    ),
    LintRule(
        "never-met",
        Level.ERROR,
        "requires of {} what no evidence of this version shows, so every receipt is refused",
        "take a source from the table of evidence kinds; measured weights are shown by none yet",
        lambda policy: [] if policy.is_empty() else ask.unmeetable(policy),
    ),
    LintRule(
        "idle-alternative",
        Level.WEAK,
        "lists {}, which no receipt can take: no evidence shows it, or the policy rules it out",
        "strike the alternative, or what rules it out",
        ask.idle_alternatives,
    ),
    LintRule(
        "asserted-suffices",
        Level.WEAK,
        "lists evidence for {} and lets the operator's word suffice beside it, so none is needed",
        "strike `asserted`, or leave the claim to the operator on purpose",
        ask.asserted_beside_better,
    ),
    LintRule(
        "model-stays-asserted",
        Level.WEAK,
        "accepts hardware for `execution` but does not require measured weights, so `model` stays "
        "asserted",
        "require reexecuted or proven for model, or take the operator's word for the weights",
        ask.model_stays_asserted,
    ),
    LintRule(
        "left-to-the-operator",
        Level.WEAK,
        "checks one part of the computation and leaves {} to the operator, who may have put "
        "another in its place",
        "require the same sources for model, input, output and execution",
        ask.left_to_the_operator,
    ),
    LintRule(
        "replayable",
        Level.WEAK,
        "requires neither the caller's nonce nor an age, so an old receipt of an equal request "
        "passes",
        "set nonce = true, or maximum_age_seconds",
        ask.replayable,
    ),
    LintRule(
        "development-keys",
        Level.WEAK,
        "accepts development keys, which protect nothing",
        "strike development_keys",
        lambda policy: policy.development_keys,
    ),
    LintRule(
        "weak-class",
        Level.WEAK,
        "lets evidence of class {} stand for hardware: its operator can forge it",
        'accepted_classes = ["hardware"]',
        ask.weak_classes,
    ),
    LintRule(
        "weak-tcb",
        Level.WEAK,
        "accepts machines of TCB status {}, for which known attacks are not closed",
        'accepted_tcb = ["UpToDate"]',
        ask.weak_tcb,
    ),
    LintRule(
        "debug",
        Level.WEAK,
        "accepts guests in debug mode, whose memory their operator can read and change",
        "strike allow_debug",
        lambda policy: policy.attestation.allow_debug,
    ),
    LintRule(
        "old-attestation",
        Level.WEAK,
        "accepts attestation of any age for {}",
        "set maximum_age_seconds under [attestation]",
        ask.old_attestation,
    ),
    LintRule(
        "one-node",
        Level.WEAK,
        "takes the word of one node for {}; one node may err, lie or be the operator's own",
        "set nodes to 2 or more, and nodes_among to nodes of different owners",
        ask.one_node,
    ),
    LintRule(
        "any-node",
        Level.NOTE,
        "counts nodes without naming them: all that the trusted root lists count",
        "set nodes_among",
        ask.any_node,
    ),
    LintRule(
        "statistical",
        Level.WEAK,
        "takes a statistical test for {}: it bounds the drift of many answers, and says little of "
        "one",
        "strike `statistical` where the identity of one answer matters",
        ask.statistical_identity,
    ),
    LintRule(
        "any-model",
        Level.NOTE,
        "accepts every model, whatever its weights: the receipt only says which",
        "set accepted_models_only = true, and list models in the trusted root",
        lambda policy: not policy.accepted_models_only,
    ),
    LintRule(
        "upstream-model",
        Level.NOTE,
        "accepts a model that an upstream service ran: its weights are nobody's here to know",
        'model_identities = ["local-weights"]',
        lambda policy: ModelIdentity.UPSTREAM_REPORTED in policy.model_identities,
    ),
    LintRule(
        "not-logged",
        Level.NOTE,
        "does not require `logged`: the operator may show others another receipt, or none",
        "require logged for logged and time",
        lambda policy: Claim.LOGGED not in policy.claims,
    ),
    LintRule(
        "time-asserted",
        Level.NOTE,
        "leaves `time` to the operator, who may date a receipt as it likes",
        "require logged for time",
        lambda policy: (
            not ask.ensures(
                policy.claims.get(Claim.TIME), lambda atom: atom.source is not Source.ASSERTED
            )
        ),
    ),
    LintRule(
        "metering-open",
        Level.NOTE,
        "does not require `metering`: nobody answers for usage and charge",
        "require asserted for metering; no evidence shows more yet",
        lambda policy: Claim.METERING not in policy.claims,
    ),
    LintRule(
        "session-attestation",
        Level.NOTE,
        "accepts attestation of the signing key, which is not of this one inference",
        "set per_inference = true",
        ask.of_the_session,
    ),
    LintRule(
        "no-revocation",
        Level.NOTE,
        "accepts attestation where no revocation list was at hand",
        "set require_revocation = true under [attestation]",
        lambda policy: ask.accepts_hardware(policy) and not policy.attestation.require_revocation,
    ),
    LintRule(
        "operator-reads",
        Level.NOTE,
        "accepts hardware and does not require `confidentiality`: the operator may read it all",
        "require hardware for confidentiality, and encrypt requests",
        ask.operator_reads,
    ),
    LintRule(
        "proof-not-masked",
        Level.NOTE,
        "accepts proofs that are not zero-knowledge: who has one may learn of input and weights",
        'set modes = ["zero-knowledge"]',
        ask.succinct,
    ),
    LintRule(
        "nodes-open",
        Level.NOTE,
        "does not say how many nodes must agree: the trusted root alone does",
        "set nodes",
        ask.open_nodes,
    ),
    LintRule(
        "witnesses-open",
        Level.NOTE,
        "does not say how many witnesses must co-sign: the trusted root alone does",
        "set witnesses",
        ask.open_witnesses,
    ),
    LintRule(
        "no-deadline",
        Level.NOTE,
        "sets no time by which evidence for {} must come: the operator chooses it",
        "set within_seconds",
        ask.no_deadline,
    ),
)
"""Every rule; the order is that of what is found."""
