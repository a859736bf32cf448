"""A prover of a committed model, from its public half, its weights and its commitment on disk.

A hiding commitment is read and never made again: its masks cannot be drawn twice, and its openings
are counted beside the very file. This module refuses to read weights or models from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from verispect.core.errors import ModelError, Reason
from verispect.proof.layout import weights_layout
from verispect.proof.parameters import Code
from verispect.proof.provable import ProvableModel
from verispect.proof.prover.prove import Prover, commit_model, make_prover
from verispect.proof.prover.stored_commitment import StoredBudget, load
from verispect.proof.prover.witness import weight_group


def load_prover(
    model: ProvableModel, weights: Sequence[npt.NDArray[np.integer[Any]]], stored: Path
) -> Prover:
    """Return the prover of a model.

    Args:
        model: the public half.
        weights: in the graph's order.
        stored: where the commitment is kept. Where it is not, the weights are committed to again,
            unless the commitment hides.

    Raises:
        ModelError: `model-not-found` where a hiding commitment is not there; `model-changed` where
            the weights or the commitment are not the model's.
        StoreError: `store-failed` for a commitment that cannot be read.
    """
    # Resolved, because openings are counted beside the file itself, whoever opens it.
    stored = stored.resolve()
    code = Code(model.columns, model.rate_bits, model.budget)
    if stored.exists():
        matrix = weight_group(weights_layout(model.graph.weights, model.columns), weights).rows()
        commitment = load(stored, matrix, code)
    elif code.hides:
        raise ModelError(
            "the model hides its weights, and its commitment is not kept here",
            reason=Reason.MODEL_NOT_FOUND,
        )
    else:
        _, commitment = commit_model(
            model.graph, weights, columns=model.columns, rate_bits=model.rate_bits
        )
    count = StoredBudget(stored, model.budget).take if code.hides else None
    return make_prover(model, weights, commitment, count)
