"""Train three small classifiers from data inside scikit-learn and write them as ONNX files.

    python examples/train_classifiers.py FOLDER

Every random choice is seeded, and metadata that would differ between runs is left out, so that
one machine with one set of packages always writes the same bytes. Inputs are 32-bit floats, the
outputs are the class and one probability per class, as plain tensors.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

SEED = 20260101
OPSET = 18


def train() -> dict[str, Any]:
    """Return the fitted classifiers by name."""
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    tumours, digits = load_breast_cancer(), load_digits()
    scaled = StandardScaler().fit_transform(tumours.data).astype("float32")
    pixels = (digits.data / 16).astype("float32")
    classifiers = {
        "breast-cancer-lr": (LogisticRegression(max_iter=500), scaled, tumours.target),
        "breast-cancer-mlp": (
            MLPClassifier((32, 16), random_state=SEED, max_iter=200),
            scaled,
            tumours.target,
        ),
        "digits-mlp": (
            MLPClassifier((128, 64), random_state=SEED, max_iter=60),
            pixels,
            digits.target,
        ),
    }
    fitted = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name, (classifier, data, target) in classifiers.items():
            fitted[name] = (classifier.fit(data, target), data.shape[1])
            print(f"{name}: accuracy {classifier.score(data, target):.3f}", file=sys.stderr)
    return fitted


def to_onnx(classifier: Any, features: int) -> bytes:
    """Convert a classifier; its probabilities are a tensor and not a list of maps."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = convert_sklearn(
        classifier,
        name="classifier",
        initial_types=[("input", FloatTensorType([None, features]))],
        options={id(classifier): {"zipmap": False}},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    return bytes(model.SerializeToString(deterministic=True))


def main() -> int:
    """Write the classifiers and print their digests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (classifier, features) in train().items():
        content = to_onnx(classifier, features)
        (folder / f"{name}.onnx").write_bytes(content)
        print(f"{hashlib.sha256(content).hexdigest()}  {name}.onnx")
    return 0


if __name__ == "__main__":
    sys.exit(main())
