"""Advice: never less than the stakes require, never a figure that nobody measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confidential_gateway import run_confidential
from hypothesis import given
from hypothesis import strategies as st
from paid_gateway import run_paid_gateway
from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.policy import (
    ATTESTED,
    AUDITED,
    LOGGED,
    PRESETS,
    PROVEN,
    SIGNED,
    expand,
)
from verispect.appraisal.stakes import STAKES
from verispect.cli.main import main
from verispect.client.advice import fetch_advice
from verispect.core.claims import Claim, Source
from verispect.core.statement import PromisedEvidence
from verispect.evidence.attestation import EvidenceClass
from verispect.gateway.advice import Option, Wishes, claims_of, recommend
from verispect.gateway.promising import forecast_log, forecast_verdicts
from verispect.ledger.measured import MeasuredProofs, Spread
from verispect.testing.echo_model import EchoLanguageModel

WORDS = ("signed", "logged", "audited", "proven", "proven+logged", "audited+proven", "attested")


def option(word: str, **fields: Any) -> Option:
    words = tuple(each for each in word.split("+") if each != "signed")
    return Option(expand(word), words, claims_of(words, {}), **fields)


def wishes(stakes: str, **fields: Any) -> Wishes:
    return Wishes(STAKES[stakes], **fields)


def offer_log(running: RunningGateway) -> None:
    """Let a gateway promise inclusion in a log and the verdicts of two nodes."""
    log = forecast_log(origin="log.example", witnesses=["a"], threshold=1, milliseconds=60_000)
    nodes = forecast_verdicts(nodes=["n", "m"], threshold=2, milliseconds=3_600_000)
    due = PromisedEvidence("log", due_at=60_000)
    recorder = running.state.recorder
    recorder.offer(LOGGED, lambda now: [PromisedEvidence("log", due_at=now + 60_000)], log)
    recorder.offer(
        AUDITED,
        lambda now: [due, PromisedEvidence("verdicts", due_at=now + 3_600_000)],
        nodes,
    )


@pytest.fixture
def running(tmp_path: Path):
    with run_gateway(tmp_path, EchoLanguageModel()) as gateway:
        yield gateway


def ask(running: RunningGateway, **fields: Any) -> Any:
    with running.http() as client:
        return client.get("/v1/advise", params={"model": "echo", "stakes": "low", **fields})


@given(
    stakes=st.sampled_from(sorted(STAKES)),
    chosen=st.lists(st.sampled_from(WORDS), unique=True),
    prices=st.lists(st.integers(0, 100), min_size=len(WORDS), max_size=len(WORDS)),
    budget=st.none() | st.integers(0, 100),
    private=st.booleans(),
    development=st.booleans(),
)
def test_nothing_that_falls_short_is_ever_recommended(
    stakes: str,
    chosen: list[str],
    prices: list[int],
    budget: int | None,
    private: bool,
    development: bool,
) -> None:
    """Whatever is offered at whatever price, what is recommended is enough and fits."""
    options = [
        option(word, price=price, development=development)
        for word, price in zip(chosen, prices, strict=False)
    ]
    wanted = wishes(stakes, budget=budget, private=private)
    taken, reason = recommend(options, wanted)
    assert reason
    fitting = [o for o in options if not o.shortfalls(wanted) and not o.obstacles(wanted)]
    assert (taken is None) == (not fitting)
    if taken is not None:
        assert not STAKES[stakes].shortfalls(taken.policy)
        assert taken in fitting
        assert all((taken.price or 0) <= (each.price or 0) for each in fitting)
        assert not (private and not taken.encrypted)


@pytest.mark.parametrize(
    ("stakes", "enough"),
    [
        ("low", {"signed", "logged", "audited", "proven", "proven+logged"}),
        ("moderate", {"logged", "audited", "proven+logged"}),
        ("high", {"audited", "proven+logged"}),
        ("critical", {"proven+logged"}),
    ],
)
def test_the_words_of_the_page_are_those_of_the_table(stakes: str, enough: set[str]) -> None:
    """What `docs/choosing.md` says to take at least is what the rule finds enough."""
    offered = ("signed", "logged", "audited", "proven", "proven+logged")
    assert {w for w in offered if not STAKES[stakes].shortfalls(expand(w))} == enough


def test_hardware_of_a_weaker_class_is_an_assertion() -> None:
    """An emulated enclave is not enough for high stakes, a real one with a log is."""
    rule = STAKES["high"]
    assert not rule.shortfalls(expand("attested+logged"))
    assert rule.shortfalls(expand("attested-development+logged"))


def test_what_was_not_measured_is_no_promise_of_speed() -> None:
    """With a limit on latency an option without a figure is not recommended."""
    unknown = option("signed")
    assert recommend([unknown], wishes("low"))[0] is unknown
    taken, reason = recommend([unknown], wishes("low", answer_milliseconds=1000))
    assert taken is None
    assert "not measured yet" in reason
    quick = option("signed", answer=Spread(20, 5, 9))
    assert recommend([quick], wishes("low", answer_milliseconds=9))[0] is quick
    assert recommend([quick], wishes("low", answer_milliseconds=8))[0] is None


def test_a_proof_counts_as_quick_as_it_was_measured() -> None:
    """A proof promised in ten minutes fits a limit of ten seconds where it took five."""
    proofs = MeasuredProofs(Spread(30, 4000, 5000), Spread(30, 1, 1), missed=0, promised=30)
    late = option("proven", promised={"proof": 600})
    quick = option("proven", promised={"proof": 600}, proofs=proofs)
    assert recommend([late], wishes("low", assured_seconds=10))[0] is None
    assert recommend([quick], wishes("low", assured_seconds=10))[0] is quick


def test_who_misses_proofs_is_not_recommended_for_them() -> None:
    """A server of which one proof in five did not come is told so."""
    proofs = MeasuredProofs(Spread(8, 1, 1), Spread(8, 1, 1), missed=2, promised=10)
    taken, reason = recommend([option("proven", proofs=proofs)], wishes("low"))
    assert taken is None
    assert "2 of 10 promised proofs did not come" in reason


def test_privacy_needs_hardware_that_the_operator_cannot_forge() -> None:
    """An encrypted request to an emulated enclave is not private."""
    forged = option("attested", encrypted=True, evidence_class=EvidenceClass.DEVELOPMENT)
    real = option("attested", encrypted=True, evidence_class=EvidenceClass.HARDWARE)
    private = wishes("low", private=True)
    assert recommend([option("signed"), forged], private)[0] is None
    assert recommend([option("signed"), forged, real], private)[0] is real


def test_a_gateway_lists_what_it_delivers_and_no_more(running: RunningGateway) -> None:
    """A server with nothing but a key offers `signed`, and refuses to call it enough."""
    low = ask(running).json()
    assert [each["name"] for each in low["options"]] == ["signed"]
    assert low["recommendation"]["assurance"] == "signed"
    assert low["options"][0]["measured"] == {"answer_ms": None}
    assert "execution: the operator's word only" in low["options"][0]["uncovered"]
    high = ask(running, stakes="high").json()
    assert high["recommendation"] is None
    assert high["reason"] == "nothing that this server delivers is enough for high stakes"
    assert any("logged" in line for line in high["options"][0]["shortfalls"])


def test_each_option_of_a_gateway_is_accepted_when_asked_for(running: RunningGateway) -> None:
    """What is listed is not refused: words, sums and the narrowed audit."""
    offer_log(running)
    document = ask(running, stakes="critical").json()
    assert {"signed", "logged", "audited"} < {each["name"] for each in document["options"]}
    chosen = document["options"][document["recommendation"]["option"]]
    assert chosen["claims"]["execution"] == ["reexecuted"]
    assert chosen["promised_seconds"] == {"log": 60, "verdicts": 3600}
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    with running.http() as client:
        for each in document["options"]:
            headers = {} if each["lane"] is None else {"verispect-lane": each["lane"]}
            answer = client.post(
                "/v1/chat/completions",
                json={**body, "assurance": each["assurance"]},
                headers=headers,
            )
            assert answer.status_code == 200, answer.text


def test_development_evidence_is_shown_for_what_it_is(tmp_path: Path) -> None:
    """An emulated enclave is listed with its weakness, and private to nobody."""
    with run_confidential(tmp_path) as confidential:
        document = ask(confidential.gateway, privacy="operator").json()
        assert document["recommendation"] is None
        names = {each["name"]: each for each in document["options"]}
        assert names["attested-development"]["encrypted"] is True
        assert names["signed"]["encrypted"] is False
        assert any("forge" in line for line in names["attested-development"]["shortfalls"])


@pytest.mark.parametrize(("budget", "fits"), [("0", False), ("2999", False), ("3000", True)])
def test_a_budget_is_held_against_the_price_sheet(tmp_path: Path, budget: str, fits: bool) -> None:
    """What is sold has its price at most; a budget of nothing buys nothing."""
    with run_paid_gateway(tmp_path) as shop:
        document = ask(shop.running, budget=budget).json()
        assert [each["price"] for each in document["options"]] == ["3000"]
        assert (document["recommendation"] is not None) == fits


@pytest.mark.parametrize(
    "fields",
    [
        {"stakes": "none"},
        {"stakes": ""},
        {"stakes": "Low"},
        {"privacy": "maybe"},
        {"unknown": "1"},
        {"budget": "-1"},
        {"budget": "NaN"},
        {"budget": "1e3"},
        {"budget": "9223372036854775808"},
        {"budget": "9" * 5000},
        {"budget": "+1"},
        {"budget": "01"},
        {"budget": "\u0661"},
        {"budget": ""},
        {"latency_ms": "inf"},
        {"latency_ms": "0x10"},
        {"latency_ms": " 5"},
        {"assured_seconds": "3162240001"},
        {"input_tokens": "4294967297"},
        {"output_tokens": "-0"},
    ],
)
def test_bad_numbers_and_words_are_refused(running: RunningGateway, fields: Any) -> None:
    """What is no number, out of range or unknown is the caller's error, and nothing is advised."""
    answer = ask(running, **fields)
    assert answer.status_code in {400, 414, 431}, answer.text
    assert "options" not in answer.text


def test_an_unknown_model_is_not_found(running: RunningGateway) -> None:
    """No other model is advised on in its place."""
    assert ask(running, model="other").status_code == 404
    assert ask(running, model="service:other").status_code in {404, 400}


def test_the_command_line_tells_and_keeps_the_policy(
    running: RunningGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`verispect advise` recommends with exit code 0, refuses with 1, and saves a policy."""
    kept = tmp_path / "policy.toml"
    common = ["advise", "--url", running.base_url, "--model", "echo", "--stakes"]
    assert main([*common, "low", "--save-policy", str(kept)]) == 0
    shown = capsys.readouterr()
    assert "not measured yet" in shown.out
    assert "OK: take signed" in shown.err
    assert kept.read_text() == SIGNED.to_toml()
    assert main([*common, "critical"]) == 1
    assert "FAIL: nothing to recommend" in capsys.readouterr().err
    assert main([*common, "low", "--budget", "-5"]) == 2


def test_advice_is_read_from_a_real_gateway(running: RunningGateway) -> None:
    """The client gives the policy with which the answer is to be verified."""
    offer_log(running)
    advice = fetch_advice(running.base_url, {"model": "echo", "stakes": "moderate"})
    assert advice.policy is not None
    assert advice.policy.digest() == LOGGED.digest()
    assert advice.options[advice.recommended or 0]["name"] == "logged"


def test_claims_of_words_show_what_evidence_adds() -> None:
    """A proof stands behind the computation, the operator's word behind the rest."""
    claims = claims_of(("proven",), {})
    assert claims[Claim.EXECUTION] == {Source.PROVEN}
    assert claims[Claim.TIME] == {Source.ASSERTED}
    assert Claim.LOGGED not in claims
    assert ATTESTED.name in PRESETS
    assert PROVEN.name in PRESETS
