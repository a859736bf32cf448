"""The package's verifier, asked about the oracle's statements."""

from __future__ import annotations

import struct

import numpy as np

from oracles.proof_maker import Model, Refused, Statement, judge
from verispect.core.errors import Error
from verispect.proof.parameters import Mode
from verispect.proof.provable import ProvableModel
from verispect.proof.verifier import VerifiedProof, verify_proof


def provable(model: Model) -> ProvableModel:
    return ProvableModel(model.graph, model.c, model.rate_bits, model.committed.root, model.budget)


def verify(statement: Statement, proof: bytes) -> VerifiedProof:
    """Let the package's verifier judge."""
    graph, batch = statement.model.graph, statement.batch
    shape = (len(statement.outputs), *graph.shapes[graph.output.tensor])
    inputs = None
    if statement.inputs is not None:
        inputs = np.array(statement.inputs).reshape(batch, *graph.input.shape)
    return verify_proof(
        proof,
        model=provable(statement.model),
        mode=Mode.ZERO_KNOWLEDGE if statement.masked else Mode.SUCCINCT,
        context=statement.context,
        inputs=inputs,
        outputs=np.array(statement.outputs).reshape(shape),
        salt=statement.salt,
    )


def refused_by_both(statement: Statement, proof: bytes) -> Error:
    """Both verifiers refuse; return the package's error."""
    try:
        judge(statement, proof)
    except (Refused, ValueError, KeyError, IndexError, TypeError, struct.error, Error):
        pass
    else:
        raise AssertionError("the oracle accepts")
    try:
        verify(statement, proof)
    except Error as error:
        return error
    raise AssertionError("the verifier accepts")
