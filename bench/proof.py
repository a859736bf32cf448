"""Proofs of named models: CPU time, verification, size and memory, one fresh process for each.

`python bench/proof.py [MODEL …]`. The CPU seconds are user and system time of one warm proof, the
least of several; the peak is that of a process that loads the model and proves, with what Python
and NumPy take. Where ezkl 23.0.5 is already installed it proves the same models in the same run
and its CPU seconds stand beside ours; this never installs it and quotes no recorded figure of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from proof_peer import peer
from report import figure, progress

MODELS = (
    "mlp_784_128_10",
    "lenet5",
    "dense_1024",
    "trees_20x3",
    "params_10m",
    "rapidocr_cls",
    "opennsfw",
)
CONTEXT = bytes(32)
MAXIMUM_RUNS = 7
ENOUGH_SECONDS = 20.0
ZERO_KNOWLEDGE_OPENINGS = 8
BATCH = 32
BATCHED = ("mlp_784_128_10", "lenet5", "trees_20x3")


def prepare(name: str, folder: Path) -> None:
    """Import a model and keep it with one input: importing is not part of what is measured."""
    import numpy as np
    from proof_subjects import SUBJECTS

    from verispect.proof.provable import ProvableModel, encode_weights

    subject = SUBJECTS[name]()
    graph = subject.model.graph
    placeholder = ProvableModel(graph, 6, 2, bytes(32))
    (folder / "model").write_bytes(placeholder.encode())
    (folder / "weights").write_bytes(encode_weights(subject.model.weights))
    np.save(folder / "input.npy", subject.inputs[:1])
    if subject.peer is not None:
        (folder / "peer.onnx").write_bytes(subject.peer)
    report = subject.model.report
    (folder / "report.json").write_text(
        json.dumps({"agreement": report.agreement, "samples": report.samples})
    )


def measure(folder: Path, budget: int) -> dict[str, float]:
    """Commit, prove and verify in this process."""
    import resource

    import numpy as np

    from verispect.proof.arithmetic import read_input
    from verispect.proof.parameters import smallest_code
    from verispect.proof.provable import ProvableModel, decode_weights
    from verispect.proof.prover.prove import commit_model, make_prover, prove
    from verispect.proof.verifier import verify_proof

    graph = ProvableModel.decode((folder / "model").read_bytes()).graph
    weights = decode_weights(graph, (folder / "weights").read_bytes())
    inputs = read_input(graph.input, np.load(folder / "input.npy")).integers
    code = smallest_code(graph, 1, masking_budget=budget)
    model, commitment = commit_model(
        graph,
        weights,
        columns=code.column_variables,
        rate_bits=code.rate_bits,
        masking_budget=budget,
    )
    # The openings of a benchmark hide nothing from anybody: they are not counted.
    prover = make_prover(model, weights, commitment, lambda: None)
    best = wall = float("inf")
    spent = 0.0
    for number in range(MAXIMUM_RUNS):
        cpu, started = time.process_time(), time.perf_counter()
        result = prove(prover, inputs, mode=code.mode, context=CONTEXT)
        cpu = time.process_time() - cpu
        spent += cpu
        if number:  # The first one compiles kernels, or reads them from the cache.
            best, wall = min(best, cpu), min(wall, time.perf_counter() - started)
        if number and spent > ENOUGH_SECONDS:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    data = result.proof.encode()
    verifying = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        verified = verify_proof(
            data,
            model=model,
            mode=code.mode,
            context=CONTEXT,
            inputs=inputs,
            outputs=result.trace.output,
        )
        verifying = min(verifying, time.perf_counter() - started)
    return {
        "cpu": best,
        "wall": wall,
        "verify": verifying,
        "bytes": len(data),
        "peak": peak,
        "bits": verified.security_bits,
    }


def measure_shared(folder: Path, requests: int) -> dict[str, float]:
    """Prove several requests at once, and return the CPU seconds of each."""
    import numpy as np

    from verispect.proof.arithmetic import read_input
    from verispect.proof.parameters import smallest_code
    from verispect.proof.provable import ProvableModel, decode_weights
    from verispect.proof.prover.prove import commit_model, make_prover, prove_requests
    from verispect.proof.prover.requested import Request

    graph = ProvableModel.decode((folder / "model").read_bytes()).graph
    weights = decode_weights(graph, (folder / "weights").read_bytes())
    inputs = read_input(graph.input, np.load(folder / "input.npy")).integers
    # The code is that of single requests: a model is committed once, whoever shares proofs.
    code = smallest_code(graph, 1)
    model, commitment = commit_model(
        graph, weights, columns=code.column_variables, rate_bits=code.rate_bits
    )
    prover = make_prover(model, weights, commitment)
    shared = [Request(inputs, number.to_bytes(32, "big")) for number in range(requests)]
    best = float("inf")
    for number in range(4):
        cpu = time.process_time()
        result = prove_requests(prover, shared, mode=code.mode)
        if number:
            best = min(best, time.process_time() - cpu)
    return {"cpu": best / requests, "bytes": len(result.proof.encode())}


def _in_fresh_process(*arguments: str, script: str = __file__) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"measuring failed with code {done.returncode}")
    # The last line: a library in the process may have printed others.
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


def bench(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        progress(f"{name}: importing")
        _in_fresh_process("--prepare", name, place)
        progress(f"{name}: proving")
        open_ = _in_fresh_process("--measure", place, "0")
        accuracy = json.loads((Path(place) / "report.json").read_text())
        other = _peer(name, place)
        figure(
            f"{name}.prove_cpu_seconds",
            open_["cpu"],
            "s",
            peer=peer() if other else None,
            peer_value=other["cpu"] if other else None,
            wall_seconds=round(open_["wall"], 4),
            security_bits=round(open_["bits"], 1),
            **accuracy,
        )
        figure(
            f"{name}.verify_seconds",
            open_["verify"],
            "s",
            peer=peer() if other else None,
            peer_value=other["verify"] if other else None,
        )
        figure(f"{name}.proof_bytes", open_["bytes"], "bytes")
        figure(f"{name}.peak_bytes", open_["peak"], "bytes")
        if name in BATCHED:
            shared = _in_fresh_process("--measure-shared", place, str(BATCH))
            figure(
                f"{name}.batch{BATCH}_prove_cpu_seconds_per_request",
                shared["cpu"],
                "s",
                of_single=round(shared["cpu"] / open_["cpu"], 3),
                proof_bytes=shared["bytes"],
            )
        progress(f"{name}: proving in mode zero-knowledge")
        hiding = _in_fresh_process("--measure", place, str(ZERO_KNOWLEDGE_OPENINGS))
        figure(
            f"{name}.zk_prove_cpu_seconds",
            hiding["cpu"],
            "s",
            of_succinct=round(hiding["cpu"] / open_["cpu"], 2),
            verify_seconds=round(hiding["verify"], 4),
            proof_bytes=hiding["bytes"],
            peak_bytes=hiding["peak"],
        )


def _peer(name: str, place: str) -> dict[str, float] | None:
    """Measure the peer, where it is installed and has a form of the model."""
    if peer() is None or not (Path(place) / "peer.onnx").exists():
        return None
    progress(f"{name}: setting up and proving with {peer()}; this takes minutes")
    script = str(Path(__file__).with_name("proof_peer.py"))
    measured: dict[str, float] = _in_fresh_process(place, script=script)
    return measured


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--prepare"]:
        prepare(arguments[1], Path(arguments[2]))
        return 0
    if arguments[:1] == ["--measure"]:
        print(json.dumps(measure(Path(arguments[1]), int(arguments[2]))))
        return 0
    if arguments[:1] == ["--measure-shared"]:
        print(json.dumps(measure_shared(Path(arguments[1]), int(arguments[2]))))
        return 0
    unknown = set(arguments) - set(MODELS)
    if unknown:
        sys.exit(f"bench: no such model: {', '.join(sorted(unknown))}; there are {MODELS}")
    failed = 0
    for name in arguments or MODELS:
        try:
            bench(name)
        except RuntimeError as error:
            progress(f"{name}: {error}")
            failed += 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
