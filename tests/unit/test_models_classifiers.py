"""The trained example classifiers are models like any other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from verispect.models.registration import register_file
from verispect.models.registry import ModelRegistry

SCRIPT = Path(__file__).parents[2] / "examples" / "train_classifiers.py"


def test_trained_classifiers_register(tmp_path: Path) -> None:
    """Three classifiers are written, each with plain tensors in and out."""
    subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    registry = ModelRegistry(tmp_path / "registry")
    classes = {"breast-cancer-lr": 2, "breast-cancer-mlp": 2, "digits-mlp": 10}
    for name, count in classes.items():
        graph = register_file(registry, name, tmp_path / f"{name}.onnx").manifest.graph
        assert graph is not None
        assert [port.datatype for port in graph.inputs] == ["FP32"]
        assert [port.datatype for port in graph.outputs] == ["INT64", "FP32"]
        assert graph.outputs[1].shape == (-1, count)
