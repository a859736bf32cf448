"""The linter: every rule finds its weak spot, and nothing where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import pytest
from docs_blocks import ROOT

from verispect.appraisal.policy import PRESETS, AssurancePolicy
from verispect.appraisal.policy_lint import RULES, Level, lint
from verispect.cli.main import main

MASKED: Final = {"source": "proven", "modes": ["zero-knowledge"], "within_seconds": 600}
WITNESSED: Final = {"source": "logged", "witnesses": 2, "within_seconds": 60}
CLEAN: Final[Mapping[str, object]] = {
    "version": 1,
    "name": "clean",
    "nonce": True,
    "accepted_models_only": True,
    "claims": {
        **{claim: [MASKED] for claim in ("model", "input", "output", "execution")},
        "metering": ["asserted"],
        **{claim: [WITNESSED] for claim in ("time", "logged")},
    },
}
HARDWARE: Final = {"source": "hardware", "per_inference": True}
ATTESTED: Final = {
    claim: [HARDWARE] for claim in ("input", "output", "execution", "confidentiality")
}
NODES: Final = {
    "source": "reexecuted",
    "nodes": 2,
    "nodes_among": ["a", "b", "c"],
    "within_seconds": 60,
}
FRESH: Final = {"maximum_age_seconds": 60, "require_revocation": True}

CASES: Final[Mapping[str, Mapping[str, object]]] = {
    "empty": {"claims": {}},
    "never-met": {"metering": ["proven"]},
    "idle-alternative": {"time": ["logged", "proven"]},
    "asserted-suffices": {"execution": ["asserted", "proven"]},
    "model-stays-asserted": {**ATTESTED, "model": ["asserted"], "attestation": FRESH},
    "left-to-the-operator": {"input": ["asserted"]},
    "replayable": {"nonce": False},
    "development-keys": {"development_keys": True},
    "weak-class": {
        **ATTESTED,
        "attestation": {**FRESH, "accepted_classes": ["hardware", "software"]},
    },
    "weak-tcb": {
        **ATTESTED,
        "attestation": {**FRESH, "accepted_tcb": ["UpToDate", "OutOfDate"]},
    },
    "debug": {"attestation": {"allow_debug": True}},
    "old-attestation": {
        **ATTESTED,
        "execution": ["hardware"],
        "attestation": {"require_revocation": True},
    },
    "one-node": {"execution": [{**NODES, "nodes": 1}]},
    "any-node": {"execution": [{"source": "reexecuted", "nodes": 2, "within_seconds": 9}]},
    "statistical": {"execution": [NODES, {**NODES, "source": "statistical"}]},
    "any-model": {"accepted_models_only": False},
    "upstream-model": {"model_identities": ["local-weights", "upstream-reported"]},
    "not-logged": {"logged": None},
    "time-asserted": {"time": ["asserted"]},
    "metering-open": {"metering": None},
    "session-attestation": {**ATTESTED, "execution": ["hardware"], "attestation": FRESH},
    "no-revocation": {**ATTESTED, "attestation": {"maximum_age_seconds": 60}},
    "operator-reads": {**ATTESTED, "confidentiality": None, "attestation": FRESH},
    "proof-not-masked": {"execution": [{"source": "proven", "within_seconds": 600}]},
    "nodes-open": {"execution": [{"source": "reexecuted", "within_seconds": 60}]},
    "witnesses-open": {
        "time": [{"source": "logged", "within_seconds": 60}],
        "logged": [{"source": "logged", "within_seconds": 60}],
    },
    "no-deadline": {"execution": [{"source": "proven", "modes": ["zero-knowledge"]}]},
}
"""By rule, the change to the clean policy that it is about; `None` strikes a claim."""


def policy_with(change: Mapping[str, object]) -> AssurancePolicy:
    claims = dict(CLEAN["claims"])  # type: ignore[call-overload]
    document = dict(CLEAN)
    for name, value in change.items():
        if name in {"metering", *claims, "confidentiality"}:
            claims[name] = value
        elif name == "claims":
            claims = dict(value)  # type: ignore[call-overload]
        else:
            document[name] = value
    given = {claim: each for claim, each in claims.items() if each is not None}
    return AssurancePolicy.from_document({**document, "claims": given})


def codes(policy: AssurancePolicy) -> list[str]:
    return [each.code for each in lint(policy)]


def test_a_policy_without_a_weak_spot_is_left_alone():
    """There is a policy about which no rule has a word."""
    assert codes(policy_with({})) == []
    hardened = policy_with({**ATTESTED, "attestation": FRESH, "model": [NODES]})
    assert codes(hardened) == []


def test_each_rule_has_a_case():
    """No rule is untested, and no code stands for two rules."""
    assert [rule.code for rule in RULES] == list(CASES)


@pytest.mark.parametrize("code", CASES)
def test_each_rule_finds_its_weak_spot(code):
    """A policy that is weak in one way is told so, with words and a remedy."""
    found = {each.code: each for each in lint(policy_with(CASES[code]))}
    assert code in found
    finding = found[code]
    assert finding.message
    assert finding.remedy
    assert "{}" not in finding.message


def test_hardware_without_measured_weights_is_named_in_these_words():
    """The best-known trap has its own sentence."""
    found = {each.code: each.message for each in lint(PRESETS["attested"])}
    assert found["model-stays-asserted"] == (
        "accepts hardware for `execution` but does not require measured weights, so `model` stays"
        " asserted"
    )
    for closed in ([NODES], [{"source": "proven"}]):
        hardened = policy_with({**ATTESTED, "attestation": FRESH, "model": closed})
        assert "model-stays-asserted" not in codes(hardened)


def test_what_nothing_shows_is_an_error_and_not_a_weakness():
    """Measured weights are a condition that no technology of this version meets."""
    measured = policy_with({"execution": [{**HARDWARE, "measured_weights": True}]})
    (finding,) = [each for each in lint(measured) if each.level is Level.ERROR]
    assert finding.code == "never-met"
    assert "`execution`" in finding.message
    nested = policy_with(
        {"execution": {"all_of": ["proven", {"any_of": ["logged", "statistical"]}]}}
    )
    assert "never-met" not in codes(nested)
    assert "idle-alternative" in codes(nested)


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_an_error_and_each_has_something_open(name):
    """Presets can be met, and say what they leave open."""
    found = lint(PRESETS[name])
    assert found
    assert Level.ERROR not in {each.level for each in found}


def test_the_documentation_lists_every_rule_with_its_level():
    """The table in docs/policy.md is the one that is applied."""
    text = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z-]+)` \| (error|weak|note) \|", text, re.MULTILINE)
    assert listed == [(rule.code, rule.level.value) for rule in RULES]


# -- The command -----------------------------------------------------------------------------------


def lint_command(capsys, *arguments):
    code = main(["policy", "lint", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_weak_policy_fails_and_a_clean_one_does_not(capsys, tmp_path):
    """The exit code is for machines: 0 none, 1 weak, and notes fail only where that is wanted."""
    clean = tmp_path / "clean.json"
    clean.write_text(json.dumps(CLEAN), encoding="utf-8")
    assert lint_command(capsys, str(clean)) == (0, "", "OK: no weak spot\n")
    code, out, err = lint_command(capsys, "attested")
    assert code == 1
    assert "(model-stays-asserted)" in out
    assert err.startswith("FAIL: ")
    noted = tmp_path / "noted.json"
    noted.write_text(json.dumps({**CLEAN, "accepted_models_only": False}), encoding="utf-8")
    assert lint_command(capsys, str(noted))[0] == 0
    assert lint_command(capsys, str(noted), "--strict")[0] == 1
    assert lint_command(capsys, str(noted), "--strict", "--allow", "any-model")[0] == 0


def test_findings_are_given_as_json_too(capsys):
    """With --json standard output holds codes and words, and nothing else."""
    code, out, _ = lint_command(capsys, "signed", "--json")
    view = json.loads(out)
    assert code == 1
    assert view["policy"] == {"name": "signed", "digest": PRESETS["signed"].digest().hex()}
    assert {"code", "level", "message", "remedy"} == set(view["findings"][0])
    assert "asserted-suffices" in {each["code"] for each in view["findings"]}


def test_what_is_no_policy_is_malformed_and_not_weak(capsys, tmp_path):
    """A file that cannot be read as a policy has another exit code than a weak one."""
    broken = tmp_path / "broken.toml"
    broken.write_text("version = 1\n", encoding="utf-8")
    assert lint_command(capsys, str(broken))[0] == 3
    with pytest.raises(SystemExit):
        main(["policy", "lint", "signed", "--allow", "no-such-rule"])
