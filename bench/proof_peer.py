"""The same models with ezkl, where the version compared with is already installed.

Nothing here installs it: it has no licence. It needs a trusted setup; the one made here is for
measuring and worth nothing, because who runs this knows its secret. Only the proof is timed: CPU
seconds of user and system on all cores, the witness included, as ours includes the run.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

PEER = "ezkl"
VERSION = "23.0.5"


def peer() -> str | None:
    """Return name and version of the peer where it is installed, and no other version of it."""
    try:
        found = importlib.metadata.version(PEER)
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"{PEER} {VERSION}" if found == VERSION else None


def measure(folder: Path) -> dict[str, float]:
    """Set up, prove and verify in this process; `folder` holds `peer.onnx` and `input.npy`."""
    import ezkl
    import numpy as np
    import onnx

    model = onnx.load(str(folder / "peer.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    names = ("network.onnx", "input.json", "settings.json", "compiled", "srs", "vk", "pk")
    network, data, settings, compiled, srs, vk, pk = (str(folder / f"peer-{n}") for n in names)
    witness, proof = str(folder / "peer-witness.json"), str(folder / "peer-proof.json")
    onnx.save(model, network)
    inputs = np.load(folder / "input.npy").reshape(-1).astype(float).tolist()
    Path(data).write_text(json.dumps({"input_data": [inputs]}))
    ezkl.gen_settings(network, settings)
    ezkl.calibrate_settings(data, network, settings, "resources", 2.0)
    ezkl.compile_circuit(network, compiled, settings)
    ezkl.gen_srs(srs, json.loads(Path(settings).read_text())["run_args"]["logrows"])
    ezkl.setup(compiled, vk, pk, srs)
    cpu, started = time.process_time(), time.perf_counter()
    ezkl.gen_witness(data, compiled, witness)
    ezkl.prove(witness, compiled, pk, proof, srs)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - started
    started = time.perf_counter()
    if not ezkl.verify(proof, settings, vk, srs):
        raise RuntimeError("the peer refuses its own proof")
    return {"cpu": cpu, "wall": wall, "verify": time.perf_counter() - started}


def main(arguments: list[str]) -> Any:
    print(json.dumps(measure(Path(arguments[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
