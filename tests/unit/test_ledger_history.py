"""Services: versions that are signed once, kept, logged, served, and compared with receipts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest
from running_gateway import RunningGateway, run_gateway
from test_node_verification import rounds, verdicts

from node_world import Clock, Operator, identity, make_node, material, trusted_root
from verispect.appraisal.asked import expect, read_request
from verispect.appraisal.assurance_policy import AssurancePolicy, conjunction
from verispect.appraisal.policy import SIGNED
from verispect.appraisal.service_history import ServiceHistory, check_service
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Expected, Verifier
from verispect.attesters.signer import Issuer
from verispect.cli.main import main
from verispect.core.claims import Claim
from verispect.core.commitments import Part, decode_openings
from verispect.core.encoding import from_base64url, sha256
from verispect.core.errors import (
    Error,
    MalformedError,
    ModelError,
    Reason,
    RequestError,
    StoreError,
)
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import ServiceBinding
from verispect.evidence.interface import CheckStatus
from verispect.gateway.services import Services
from verispect.ledger.history import Audience, ServiceDraft, ServiceOutbox, ServiceRegistry
from verispect.ledger.log.state_sqlite import SqliteState
from verispect.testing.echo_model import EchoLanguageModel
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.verdict import Outcome

PROMPT = "You sell umbrellas."
TOOLS = {
    "tools": [
        {"type": "function", "function": {"name": "stock", "parameters": {"type": "object"}}}
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
ISSUER = Issuer(material.ISSUER, material.GOOD, False, 0)


def draft(prompt: str = PROMPT, **fields: object) -> ServiceDraft:
    whole = {"contents": {Part.SYSTEM_PROMPT: prompt}, "name": "shop", "model": "echo"}
    return ServiceDraft(**{"model_id": sha256(b"echo"), **whole, **fields})


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ServiceRegistry]:
    opened = ServiceRegistry(tmp_path / "services.sqlite3")
    yield opened
    opened.close()


def publish(
    registry: ServiceRegistry, each: ServiceDraft | None = None, *, issuer: Issuer = ISSUER
):
    each = each or draft()
    is_new = not registry.versions(each.name)
    return registry.publish(each, issuer=issuer, now=material.NOW - 1000, is_new=is_new)


# -- The registry ----------------------------------------------------------------------------------


def test_versions_are_numbered_chained_and_survive_a_restart(
    registry: ServiceRegistry, tmp_path: Path
) -> None:
    """A second version names the first, and another process reads both with their texts."""
    first = publish(registry)
    second = publish(registry, draft("You sell hats."))
    assert (second.number, second.published.previous) == (2, first.digest)
    again = ServiceRegistry(tmp_path / "services.sqlite3").versions("shop")
    assert [each.digest for each in again] == [first.digest, second.digest]
    assert again[1].openings[Part.SYSTEM_PROMPT].content() == "You sell hats."


def test_what_cannot_be_published_is_refused(registry: ServiceRegistry) -> None:
    """No change, an impossible name, no content, and too much of it are errors; nothing is kept."""
    publish(registry)
    for bad in (
        draft(),
        draft("x", name="Shop"),
        draft(contents={}),
        draft(contents={Part.MESSAGES: []}),
        draft("x" * (1024 * 1024 + 1)),
    ):
        with pytest.raises(RequestError):
            publish(registry, bad)
    with pytest.raises(ModelError):
        registry.publish(draft("x"), issuer=ISSUER, now=1, is_new=True)
    with pytest.raises(ModelError):
        registry.publish(draft("x", name="other"), issuer=ISSUER, now=1, is_new=False)
    assert len(registry.versions("shop")) == 1


def test_the_file_is_private_and_its_versions_cannot_be_changed(
    registry: ServiceRegistry, tmp_path: Path
) -> None:
    """Texts are secrets: only the owner reads them; and a hand in a SQL shell is refused."""
    publish(registry)
    path = tmp_path / "services.sqlite3"
    assert path.stat().st_mode & 0o077 == 0
    with sqlite3.connect(path) as connection:
        for statement in ("DELETE FROM versions", "UPDATE versions SET model = 'x'"):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)


def test_a_damaged_text_is_not_served(registry: ServiceRegistry, tmp_path: Path) -> None:
    """Openings that do not open what was published are an error, not another prompt."""
    publish(registry)
    with sqlite3.connect(tmp_path / "services.sqlite3") as connection:
        connection.execute("DROP TRIGGER versions_are_not_changed")
        (data,) = connection.execute("SELECT openings FROM versions").fetchone()
        connection.execute("UPDATE versions SET openings = ?", (data.replace(b"sell", b"push"),))
    with pytest.raises(StoreError):
        registry.versions("shop")


def test_the_log_gets_each_version_once(registry: ServiceRegistry, tmp_path: Path) -> None:
    """The outbox resumes where it stopped, and leaves hold no text."""
    version = publish(registry)
    state = SqliteState(tmp_path / "log.sqlite3")
    outbox = ServiceOutbox(tmp_path / "services.sqlite3")
    assert [outbox.follow(state), outbox.follow(state)] == [1, 0]
    publish(registry, draft("You sell hats."))
    assert ServiceOutbox(tmp_path / "services.sqlite3").follow(state) == 1
    assert state.find([version.leaf_hash])[0] == 0
    assert b"umbrellas" not in version.leaf
    assert decode_leaf(version.leaf).payload == version.published


# -- The check -------------------------------------------------------------------------------------


def statement_of(version, **changed):
    parts = {**material.statement().commitments, **version.published.commitments}
    parts.pop(Part.TOOLS, None)
    statement = material.statement(
        requested_model="service:shop",
        commitments=parts,
        service=ServiceBinding("shop", version.number, version.digest),
    )
    model = replace(statement.model, model_id=version.published.model_id)
    return replace(replace(statement, model=model), **changed)


def history_of(*versions) -> ServiceHistory:
    history = ServiceHistory(trusted_root().issuer_key)
    for index, version in enumerate(versions):
        history.add_leaf(index, version.leaf)
    return history


def reason_of(statement, history) -> Reason | None:
    (check,), _ = check_service(statement, history)
    return None if check.status is CheckStatus.PASSED else check.reason


def test_a_receipt_of_a_published_version_passes_and_every_change_is_named(
    registry: ServiceRegistry,
) -> None:
    """Other prompt, other tools, other model, other number, other service, unlogged: each fails."""
    version = publish(registry)
    other = publish(registry, draft("You sell hats."))
    good = statement_of(version)
    history = history_of(version, other)
    assert reason_of(good, history) is None
    changed = {**good.commitments, Part.SYSTEM_PROMPT: other.published.commitments[Part(1)]}
    binding = good.service
    cases = {
        "prompt": replace(good, commitments=changed),
        "no prompt": replace(
            good, commitments={p: c for p, c in good.commitments.items() if p is not Part(1)}
        ),
        "tools": replace(good, commitments={**good.commitments, Part.TOOLS: sha256(b"t")}),
        "model": replace(good, model=replace(good.model, model_id=sha256(b"other"))),
        "number": replace(good, service=replace(binding, version=2)),
        "name": replace(good, requested_model="service:other"),
    }
    for name, statement in cases.items():
        assert reason_of(statement, history) is Reason.SERVICE_CHANGED, name
    assert reason_of(good, history_of(other)) is Reason.SERVICE_UNLOGGED
    assert reason_of(replace(good, service=None), None) is Reason.SERVICE_UNLOGGED


def test_only_versions_of_trusted_issuers_count_and_a_gap_is_an_alert(
    registry: ServiceRegistry, tmp_path: Path
) -> None:
    """Somebody else's version is none; a history without its first version says so."""
    publish(registry)
    second = publish(registry, draft("You sell hats."))
    assert history_of(second).alerts
    stranger = ServiceRegistry(tmp_path / "other.sqlite3")
    forged = publish(stranger, issuer=Issuer(material.ISSUER, material.OTHER, False, 0))
    assert history_of(forged).versions("shop") == []
    assert not history_of(*registry.versions("shop")).alerts


def test_a_history_is_kept_and_read_again(registry: ServiceRegistry) -> None:
    """What was written is read to the same versions; every damage is one of our errors."""
    history = history_of(publish(registry), publish(registry, draft("You sell hats.")))
    data = history.to_json()
    read = ServiceHistory.from_json(data, trusted_root().issuer_key)
    assert [each.envelope for each in read.versions("shop")] == [
        each.envelope for each in history.versions("shop")
    ]
    for position in range(0, len(data), 7):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        try:
            ServiceHistory.from_json(damaged, trusted_root().issuer_key)
        except Error:
            continue
    with pytest.raises(MalformedError):
        ServiceHistory.from_json(b"[]", trusted_root().issuer_key)


def test_the_verifier_refuses_an_unlogged_version_only_where_it_has_a_history(
    registry: ServiceRegistry,
) -> None:
    """Without the log it says that it did not compare; with it the receipt is refused."""
    version = publish(registry)
    receipt = InferenceReceipt.parse(material.receipt(**_fields(statement_of(version))))
    verifier = Verifier(trusted_root())

    def appraise(history):
        return verifier.appraise(
            receipt,
            opened={},
            policy=SIGNED,
            now=material.NOW,
            expected=Expected(history=history),
        )

    assert any("service" in line for line in appraise(None).not_covered)
    assert appraise(history_of(version)).verdict.value == "verified"
    assert appraise(history_of()).decisive_check().reason is Reason.SERVICE_UNLOGGED


def test_a_policy_can_demand_a_logged_version(registry: ServiceRegistry) -> None:
    """Where it does, no service and no history fail, and a published version passes."""
    demanding = AssurancePolicy.from_toml(
        'version = 1\nname = "a"\nservice_logged = true\n[claims]\nmodel = ["asserted"]\n'
    )
    plain = AssurancePolicy.from_toml('version = 1\nname = "a"\n[claims]\nmodel = ["asserted"]\n')
    assert demanding.service_logged
    assert demanding.digest() != plain.digest()
    assert AssurancePolicy.from_toml(demanding.to_toml()).digest() == demanding.digest()
    assert "service_logged" not in plain.to_map()
    assert conjunction("b", [plain, demanding], attestation=plain.attestation).service_logged
    version = publish(registry)
    of_service = material.receipt(**_fields(statement_of(version)))

    def reason(data, policy, history):
        result = Verifier(trusted_root()).appraise(
            InferenceReceipt.parse(data),
            opened={},
            policy=policy,
            now=material.NOW,
            expected=Expected(history=history),
        )
        return result.reason

    assert reason(of_service, demanding, history_of(version)) is None
    assert reason(of_service, plain, None) is None
    assert reason(of_service, demanding, None) is Reason.SERVICE_UNLOGGED
    assert reason(material.receipt(), plain, None) is None
    for history in (None, history_of(version)):
        assert reason(material.receipt(), demanding, history) is Reason.SERVICE_UNLOGGED


def _fields(statement):
    names = ("requested_model", "commitments", "service", "model")
    return {name: getattr(statement, name) for name in names}


# -- A node ----------------------------------------------------------------------------------------


def test_a_node_refutes_a_receipt_whose_version_is_not_in_the_log(
    registry: ServiceRegistry, tmp_path: Path
) -> None:
    """The same receipt is affirmed behind its version's leaf and refuted without it."""
    version = publish(registry)
    fields = _fields(statement_of(version))
    found = []
    for name, leaves in (("with", [version.leaf]), ("without", [])):
        with Operator() as operator:
            operator.append(*leaves)
            operator.issue(**fields)
            clock = Clock()
            node = make_node(tmp_path / name, operator.url, clock=clock)
            rounds(node, clock)
            ((finding,),) = [each.findings for each in verdicts(operator)]
            found.append((finding.outcome, finding.claim, finding.reason))
    assert found[0][0] is Outcome.AFFIRMED
    assert found[1] == (Outcome.REFUTED, Claim.INPUT, Reason.SERVICE_UNLOGGED.value)


# -- The gateway -----------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path, EchoLanguageModel()) as running:
        recorder = running.state.recorder
        registry = ServiceRegistry(tmp_path / "shop.sqlite3")
        publish(registry, issuer=recorder.issuer)
        services = Services(ServiceRegistry(tmp_path / "shop.sqlite3"), recorder.published)
        object.__setattr__(running.state, "services", services)
        yield running


def ask(gateway: RunningGateway, **fields):
    """Ask the service; return the answer, its receipt and its openings."""
    body = {"model": "service:shop", "messages": [{"role": "user", "content": "one"}], **fields}
    with gateway.http() as http:
        answer = http.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            return answer, None, {}
        member = answer.json()["verispect"]
        openings = http.get(
            f"/v1/receipts/{member['inference']}/openings",
            headers={"verispect-opening-key": answer.headers["verispect-opening-key"]},
        )
    receipt = InferenceReceipt.parse(from_base64url(member["receipt"]))
    return answer, receipt, decode_openings(openings.content)


def gateway_history(gateway: RunningGateway, registry: ServiceRegistry) -> ServiceHistory:
    root = TrustedRoot([gateway.state.recorder.issuer.trusted_key()])
    history = ServiceHistory(root.issuer_key)
    for index, version in enumerate(registry.versions("shop")):
        history.add_leaf(index, version.leaf)
    return history


def test_an_openai_client_asks_a_service_and_the_receipt_names_its_version(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """The model got the service's prompt; the receipt verifies against request and history."""
    registry = ServiceRegistry(tmp_path / "shop.sqlite3")
    _, receipt, opened = ask(gateway)
    request = {"model": "service:shop", "messages": [{"role": "user", "content": "one"}]}
    statement = receipt.unverified_statement
    assert opened[Part.SYSTEM_PROMPT].content() == PROMPT
    assert PROMPT in str(opened[Part.EFFECTIVE_INPUT].content())
    expected = expect(
        read_request(json.dumps(request).encode()),
        None,
        inference_id=bytes.fromhex(receipt.claimed_inference),
        nonce=None,
    )
    root = TrustedRoot([gateway.state.recorder.issuer.trusted_key()])
    verified = Verifier(root).verify(
        receipt,
        opened=opened,
        policy=SIGNED,
        now=10**13,
        expected=replace(expected, history=gateway_history(gateway, registry)),
    )
    assert verified.statement.service.version == 1
    with gateway.http() as http:
        record = http.get(f"/v1/records/{statement.service.digest.hex()}")
    assert record.content == registry.versions("shop")[0].envelope.encode()
    with gateway.openai() as client:
        names = [model.id for model in client.models.list()]
        assert "service:shop" in names
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(
                model="service:none", messages=[{"role": "user", "content": "x"}]
            )


def test_a_new_version_of_another_process_answers_the_next_request(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """No restart is needed; receipts of one version share its commitment, others do not."""
    registry = ServiceRegistry(tmp_path / "shop.sqlite3")
    before = [ask(gateway)[1].unverified_statement for _ in range(2)]
    both = draft(contents={Part.SYSTEM_PROMPT: "You sell hats.", Part.TOOLS: TOOLS})
    publish(registry, both, issuer=gateway.state.recorder.issuer)
    _, receipt, opened = ask(gateway)
    after = receipt.unverified_statement
    prompts = [each.commitments[Part.SYSTEM_PROMPT] for each in (*before, after)]
    assert prompts[0] == prompts[1] != prompts[2]
    assert (before[0].service.version, after.service.version) == (1, 2)
    assert opened[Part.TOOLS].content() == TOOLS
    (check,), _ = check_service(after, gateway_history(gateway, registry))
    assert check.status is CheckStatus.PASSED


def test_a_callers_own_prompt_and_tools_are_refused(gateway: RunningGateway) -> None:
    """They are neither merged with the service's nor dropped."""
    system = [{"role": "system", "content": "obey"}, {"role": "user", "content": "one"}]
    assert ask(gateway, messages=system)[0].status_code == 400
    assert ask(gateway, tools=TOOLS["tools"])[0].status_code == 400
    with gateway.openai() as client:
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="service:shop", input="one", instructions="obey")
        answer = client.responses.create(model="service:shop", input="one", store=False)
    assert "obey" not in answer.output_text


def test_a_service_whose_model_was_exchanged_does_not_answer(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """The operator must publish a version that says so."""
    served = gateway.state.pool.served["echo"]
    gateway.state.pool.served["echo"] = replace(served, model_id=sha256(b"another"))
    answer, _, _ = ask(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model-changed")


def test_a_text_is_shown_to_whom_the_operator_chose(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """To nobody, to callers, to everyone; the receipt is the same, and verifies, each time."""
    registry = ServiceRegistry(tmp_path / "shop.sqlite3")
    seen = {}
    for audience in Audience:
        registry.disclose("shop", 1, audience)
        _, receipt, opened = ask(gateway)
        with gateway.http() as http:
            public = http.get("/v1/services/shop").text + http.get("/v1/services").text
        (check,), _ = check_service(
            receipt.unverified_statement, gateway_history(gateway, registry)
        )
        assert check.status is CheckStatus.PASSED
        shown = PROMPT in str([each.content() for each in opened.values()])
        seen[audience] = (shown, "openings" in public)
    assert seen == {
        Audience.NOBODY: (False, False),
        Audience.CALLERS: (True, False),
        Audience.EVERYONE: (True, True),
    }


def test_a_version_is_not_used_before_the_log_has_it(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """The one before answers; a service whose first version waits is 503."""
    registry = ServiceRegistry(tmp_path / "shop.sqlite3")
    logged = set()

    async def is_logged(leaf):
        return leaf in logged

    services = Services(
        ServiceRegistry(tmp_path / "shop.sqlite3"),
        gateway.state.recorder.published,
        is_logged=is_logged,
    )
    object.__setattr__(gateway.state, "services", services)
    answer, _, _ = ask(gateway)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "leaf-pending")
    logged.add(registry.versions("shop")[0].leaf_hash)
    publish(registry, draft("You sell hats."), issuer=gateway.state.recorder.issuer)
    assert ask(gateway)[1].unverified_statement.service.version == 1
    logged.add(registry.versions("shop")[1].leaf_hash)
    assert ask(gateway)[1].unverified_statement.service.version == 2


# -- The command line ------------------------------------------------------------------------------


def test_history_shows_the_timeline_and_alerts_on_an_unlogged_version(
    registry: ServiceRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Disclosed versions are shown with their difference; a receipt of another one exits with 1."""
    first, second = publish(registry), publish(registry, draft("You sell hats."))
    unlogged = publish(registry, draft("You sell nothing."))
    root = tmp_path / "root.json"
    root.write_bytes(trusted_root(identity()).to_json())
    from verispect.core.commitments import encode_openings

    for version in (first, second):
        (tmp_path / f"{version.number}.cbor").write_bytes(encode_openings(version.openings))
    for name, version in (("good", first), ("bad", unlogged)):
        receipt = material.receipt(**_fields(statement_of(version)))
        (tmp_path / name).write_bytes(receipt)
    with Operator() as operator:
        operator.append(first.leaf, second.leaf)
        arguments = [
            "history",
            "shop",
            f"--operator={operator.url}",
            f"--trusted-root={root}",
            f"--openings={tmp_path / '1.cbor'}",
            f"--openings={tmp_path / '2.cbor'}",
            f"--receipt={tmp_path / 'good'}",
        ]
        assert main([*arguments, f"--out={tmp_path / 'history.json'}"]) == 0
        shown = capsys.readouterr().out
        assert "+You sell umbrellas." in shown
        assert "-You sell umbrellas." in shown
        assert "+You sell hats." in shown
        assert main([*arguments, f"--receipt={tmp_path / 'bad'}", "--json"]) == 1
        assert "service-unlogged" in capsys.readouterr().err
    verify = ["verify", f"--trusted-root={root}", "--policy=signed", "--at=2030-01-01"]
    history = f"--history={tmp_path / 'history.json'}"
    assert main([*verify, str(tmp_path / "good"), history]) == 0
    assert main([*verify, str(tmp_path / "bad"), history]) == 1
    assert main([*verify, str(tmp_path / "bad")]) == 0


def test_services_are_published_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Add, update, list, show and disclose; adding twice is an error."""
    from onnx_graphs import linear

    from verispect.models.registration import register_file
    from verispect.models.registry import ModelRegistry

    Issuer.create(tmp_path / "keys", name="tests", development=False, now=0)
    (tmp_path / "linear.onnx").write_bytes(linear())
    register_file(ModelRegistry(tmp_path / "models"), "linear", tmp_path / "linear.onnx")
    (tmp_path / "prompt.txt").write_text(PROMPT + "\n")
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS["tools"]))
    places = [f"--keys={tmp_path / 'keys'}", f"--registry={tmp_path / 'models'}"]
    state = f"--state={tmp_path / 'state'}"
    prompt = f"--system-prompt={tmp_path / 'prompt.txt'}"
    add = ["services", "add", "shop", "--model=linear", prompt, *places, state]
    assert main(add) == 0
    assert main(add) == 4
    tools = f"--tools={tmp_path / 'tools.json'}"
    assert main(["services", "update", "shop", prompt, tools, *places, state]) == 0
    assert main(["services", "update", "shop", prompt, tools, *places, state]) == 2
    capsys.readouterr()
    assert main(["services", "list", state]) == 0
    assert "shop  version 2" in capsys.readouterr().out
    out = tmp_path / "one.cbor"
    assert main(["services", "disclose", "shop", "1", "--to=everyone", f"--out={out}", state]) == 0
    assert decode_openings(out.read_bytes())[Part.SYSTEM_PROMPT].content() == PROMPT
    capsys.readouterr()
    assert main(["services", "show", "shop", state]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["audience"], second["contents"]["tools"]) == ("everyone", TOOLS)
