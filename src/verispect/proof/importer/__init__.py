"""From an ONNX model to an integer model with its weights.

The extra `onnx` is needed here and nowhere else in the room: what this package makes is data that
the runtime, the prover and the verifier take without it. It refuses by name what an integer model
cannot say.
"""

from verispect.proof.importer.importing import ImportedModel, import_onnx
from verispect.proof.importer.quantise import LARGE, SMALL, Precision
from verispect.proof.importer.report import AccuracyReport

__all__ = ["LARGE", "SMALL", "AccuracyReport", "ImportedModel", "Precision", "import_onnx"]
