"""What a gateway with a log says of whom one would have to trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from log_leaves import NODES
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.gateway.log_service import LogConfiguration, log_settings
from verispect.tlog.cosignature import witness_key


@pytest.mark.parametrize("development", [False, True])
def test_a_log_names_its_witnesses_and_nodes(tmp_path: Path, development: bool) -> None:
    """Key, witnesses and nodes make a trusted root's material; a development key is called one."""
    issuer = Issuer.create(tmp_path / "keys", name="operator", development=development, now=0)
    witness = witness_key("witness.example", NODES["node-c"])
    settings = log_settings(
        LogConfiguration(
            folder=str(tmp_path / "log"),
            keys=str(tmp_path / "log-keys"),
            witnesses=[f"http://127.0.0.1:1={witness.encode()}"],
            auditors=[f"node-a={NODES['node-a'].public_key.to_text()}"],
        ),
        issuer,
    )
    suggested = TrustedRoot([issuer.trusted_key()], log_trust=settings.trust())
    trust = TrustedRoot.from_json(suggested.to_json()).log_trust
    assert [log.origin for log in trust.logs] == ["operator/log"]
    assert (trust.witnesses.threshold, list(trust.witnesses.witnesses)) == (1, [witness])
    assert (trust.nodes.threshold, [node.name for node in trust.nodes.nodes]) == (1, ["node-a"])
    assert settings.development is development
