"""`verispect models calibrate`: measure teacher forcing on a model, and show what was measured."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from verispect.core.errors import RequestError

if TYPE_CHECKING:
    from verispect.models.registry import ModelRegistry
    from verispect.models.token_calibration import TokenScoreCalibration
    from verispect.models.verified import RegisteredModel


def run_calibrate(registry: ModelRegistry, arguments: argparse.Namespace) -> None:
    """Measure a model, store the record and print both identities.

    Raises:
        RequestError: for a model that is not a GGUF file, was not qualified, or a bad number.
    """
    from verispect.cli.calibration_llama import MAX_PROMPTS, calibrate_llama
    from verispect.models.manifest import ModelFormat
    from verispect.models.token_calibration import record_calibration

    model = registry.resolve(arguments.name)
    if model.manifest.model_format is not ModelFormat.GGUF:
        raise RequestError("only a gguf language model can be calibrated")
    if model.manifest.determinism.qualification is None:
        raise RequestError("qualify the model before it is calibrated")
    if not 2 <= arguments.prompts <= MAX_PROMPTS:
        raise RequestError(f"expected 2 to {MAX_PROMPTS} prompts", parameter="prompts")
    with registry.open_verified(model) as files:
        calibration = asyncio.run(calibrate_llama(files, prompts=arguments.prompts))
    calibrated = record_calibration(registry, model, calibration)
    for line in describe_calibration(calibration):
        print(line, file=sys.stderr)
    print(f"OK: calibrated {model.name}", file=sys.stderr)
    print(f"before {model.model_id.hex()}")
    print(f"after  {calibrated.model_id.hex()}")


def show_calibration(registry: ModelRegistry, model: RegisteredModel) -> None:
    """Print what was measured on a model; nothing where nothing was."""
    from verispect.models.token_calibration import load_calibration

    calibration = load_calibration(registry, model)
    if calibration is not None:
        for line in describe_calibration(calibration):
            print(line)


def describe_calibration(calibration: TokenScoreCalibration) -> list[str]:
    """Return a line per way of sampling and per wrong alternative."""
    lines = []
    for name, mode in (("greedy", calibration.greedy), ("sampled", calibration.sampled)):
        honest, tolerance = mode.honest, mode.honest.tolerance()
        lines.append(
            f"{name}: {honest.answers} honest answers of {honest.tokens} tokens:"
            f" {honest.disagreements} tokens otherwise, {honest.doubted} answers doubted,"
            f" {honest.refuted} refuted; tolerated: rate {tolerance.disagreement_rate:g},"
            f" gap {tolerance.gap:g}, rank {tolerance.rank}"
        )
        lines += [
            f"{name}, {each.alternative}: {each.refuted} of {each.answers} refuted,"
            f" {each.affirmed} affirmed"
            for each in mode.wrong
        ]
    return lines
