"""`verispect proof`: make an ONNX model provable, estimate, prove and verify, all offline.

A *provable folder* holds `provable-model.cbor`, which everybody may have, beside the weights and
their stored commitment, which stay with whoever proves. A *proof folder* holds the proof with the
output's integers and the answer that they stand for. `verify` needs the base install only; the
other actions bring their extras (`onnx`, `prover`) in when they are used.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verispect.cli.files import read_file, to_json, write_file
from verispect.cli.outcome import EXIT_DONE
from verispect.core.encoding import DIGEST_BYTES, from_hex, sha256
from verispect.core.errors import (
    MalformedError,
    ModelError,
    Reason,
    RequestError,
    VerificationError,
)

if TYPE_CHECKING:
    from verispect.proof.provable import ProvableModel
    from verispect.proof.prover.prove import Progress, Prover

MODEL_FILE: Final = "provable-model.cbor"
WEIGHTS_FILE: Final = "weights.cbor"
COMMITMENT_FILE: Final = "commitment.bin"
REPORT_FILE: Final = "report.json"
PROOF_FILE: Final = "proof.cbor"
INTEGERS_FILE: Final = "outputs.npy"
ANSWER_FILE: Final = "answer.npy"
NO_CONTEXT: Final = bytes(DIGEST_BYTES)
"""What a proof is about unless told: nothing but its integers."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the subcommand."""
    parser = subparsers.add_parser(
        "proof", help="make a model provable, prove its answers, verify such proofs"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_import(actions)
    estimate = actions.add_parser("estimate", help="say what a proof will cost, before the work")
    prove = actions.add_parser("prove", help="answer inputs and prove the answers")
    for action in (estimate, prove):
        action.add_argument("model", type=Path, metavar="DIR", help="a provable folder")
        action.add_argument(
            "--hide-input", action="store_true", help="commit to the input instead of showing it"
        )
    estimate.add_argument("--batch", type=_positive, default=1, help="rows in one proof")
    estimate.add_argument("--json", action="store_true", help="print JSON")
    prove.add_argument("--inputs", type=Path, required=True, help="inputs, batch first (.npy)")
    prove.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    verify = actions.add_parser(
        "verify",
        help="decide a proof offline",
        description="Decide a proof offline. Exit code: 0 verified, 1 refused, 2 usage, "
        "3 malformed, 4 could not tell.",
    )
    verify.add_argument("proof", type=Path, metavar="DIR", help="a proof folder")
    verify.add_argument(
        "--model", type=Path, required=True, help=f"the {MODEL_FILE} that you accept"
    )
    verify.add_argument("--model-digest", help="refuse a model with another digest (hexadecimal)")
    verify.add_argument(
        "--inputs", type=Path, help="inputs, batch first (.npy); hidden if left out"
    )
    verify.add_argument("--answer", type=Path, help="the answer you were given (.npy)")
    for action in (prove, verify):
        action.add_argument("--context", help="32 octets that the proof is about (hexadecimal)")


def _add_import(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add = actions.add_parser("import", help="make a provable model of an ONNX model")
    source = add.add_mutually_exclusive_group(required=True)
    source.add_argument("onnx", type=Path, nargs="?", metavar="ONNX", help="the ONNX file")
    source.add_argument("--catalogue", metavar="NAME", help="a known model of an installed package")
    add.add_argument(
        "--calibration", type=Path, required=True, help="sample inputs, batch first (.npy)"
    )
    add.add_argument("--evaluation", type=Path, help="inputs to compare on, if other ones (.npy)")
    add.add_argument("--input-shape", metavar="N,N,…", help="without batch, if the model is open")
    add.add_argument("--output", metavar="NAME", help="the output to prove, if not the first")
    add.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add.add_argument("--batch", type=_positive, default=1, help="rows a proof is mostly for")
    add.add_argument("--small", action="store_true", help="smaller proofs for a longer commitment")
    add.add_argument(
        "--zero-knowledge",
        type=_positive,
        default=0,
        metavar="OPENINGS",
        help="hide the weights, in this many proofs at most",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    actions = {"import": _import, "estimate": _estimate, "prove": _prove, "verify": _verify}
    actions[arguments.action](arguments)
    return EXIT_DONE


def _import(arguments: argparse.Namespace) -> None:
    from verispect.cli.arrays import read_array
    from verispect.proof.importer import import_onnx
    from verispect.proof.parameters import smallest_code
    from verispect.proof.provable import encode_weights
    from verispect.proof.prover.prove import commit_model
    from verispect.proof.prover.stored_commitment import save
    from verispect.proof.verifier.views import require_modest

    other = arguments.evaluation
    imported = import_onnx(
        _onnx(arguments),
        calibration=read_array(arguments.calibration),
        evaluation=None if other is None else read_array(other),
        input_shape=_shape(arguments.input_shape),
        output=arguments.output,
    )
    require_modest(imported.graph)
    code = smallest_code(
        imported.graph,
        arguments.batch,
        rate_bits=3 if arguments.small else 2,
        masking_budget=arguments.zero_knowledge,
    )
    model, commitment = commit_model(
        imported.graph,
        imported.weights,
        columns=code.column_variables,
        rate_bits=code.rate_bits,
        masking_budget=code.masking_budget,
    )
    report = _report(imported.report)
    folder: Path = arguments.out
    write_file(folder / MODEL_FILE, model.encode())
    if code.hides:
        # Hidden weights are their owner's alone, from the first byte.
        (folder / WEIGHTS_FILE).touch(mode=0o600)
    write_file(folder / WEIGHTS_FILE, encode_weights(imported.weights))
    save(commitment, folder / COMMITMENT_FILE)
    write_file(folder / REPORT_FILE, to_json(report).encode() + b"\n")
    for key, value in report.items():
        print(f"{key.replace('_', ' '):<16} {value}")
    print(f"{'mode':<16} {code.mode}")
    print(f"OK: wrote {folder}", file=sys.stderr)
    print(model.digest.hex())


def _onnx(arguments: argparse.Namespace) -> bytes:
    """Return the octets to import; of a model of the catalogue no others than the pinned ones."""
    from verispect.models.catalogue import locate

    if arguments.catalogue is None:
        return read_file(arguments.onnx, limit=1 << 31)
    entry, path = locate(arguments.catalogue)
    data = read_file(path, limit=1 << 31)
    if sha256(data) != entry.digest:
        raise ModelError(
            f"the file of model {entry.name} is not the pinned one", reason=Reason.MODEL_CHANGED
        )
    return data


def _report(report: Any) -> dict[str, Any]:
    return {
        "samples": report.samples,
        "agreement": round(report.agreement, 6),
        "largest_error": float(f"{report.largest_error:.6g}"),
        "mean_error": float(f"{report.mean_error:.6g}"),
        "output_size": float(f"{report.output_size:.6g}"),
        "clipped": report.clipped,
    }


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError("expected numbers with commas", parameter="input-shape") from error


def _context(text: str | None) -> bytes:
    if text is None:
        return NO_CONTEXT
    return _digest(text, "context")


def _digest(text: str, parameter: str) -> bytes:
    try:
        octets = from_hex(text)
    except MalformedError:
        octets = b""
    if len(octets) != DIGEST_BYTES:
        raise RequestError(
            f"expected {DIGEST_BYTES} octets in lower-case hexadecimal", parameter=parameter
        )
    return octets


def _read_model(path: Path) -> ProvableModel:
    from verispect.proof.provable import ProvableModel

    return ProvableModel.decode(read_file(path))


def _estimate(arguments: argparse.Namespace) -> None:
    from verispect.proof.parameters import Code, Mode
    from verispect.proof.prover.estimate import estimate

    model = _read_model(arguments.model / MODEL_FILE)
    code = Code(model.columns, model.rate_bits, model.budget)
    if arguments.hide_input and code.mode is Mode.SUCCINCT:
        raise RequestError("mode succinct hides no input", parameter="hide-input")
    cost = estimate(model.graph, code, arguments.batch, hidden_input=arguments.hide_input)
    view = {
        "mode": str(code.mode),
        "batch": arguments.batch,
        "cpuSeconds": float(f"{cost.cpu_seconds:.3g}"),
        "memoryBytes": cost.memory_bytes,
        "proofBytes": cost.proof_bytes,
    }
    if arguments.json:
        print(to_json(view))
        return
    print(f"mode    {view['mode']}, {arguments.batch} rows in one proof")
    print(f"time    about {view['cpuSeconds']} s of CPU time, once kernels are compiled")
    print(f"memory  about {cost.memory_bytes >> 20} MiB")
    print(f"proof   about {cost.proof_bytes / 1000:.1f} kB")


def load_prover(folder: Path) -> Prover:
    """Load what proves for the model of a provable folder.

    Args:
        folder: as `import` wrote it. Where the stored commitment is gone the weights are committed
            to again, unless the commitment hides: its masks cannot be drawn twice.

    Raises:
        StoreError: `store-failed`.
        MalformedError: `malformed-model`.
        ModelError: `model-changed` where the files do not belong together, `model-not-found` where
            a commitment that hides is gone.
    """
    from verispect.proof.provable import MAX_WEIGHTS_BYTES, decode_weights
    from verispect.proof.prover import loading

    model = _read_model(folder / MODEL_FILE)
    weights = decode_weights(model.graph, read_file(folder / WEIGHTS_FILE, limit=MAX_WEIGHTS_BYTES))
    return loading.load_prover(model, weights, folder / COMMITMENT_FILE)


def _prove(arguments: argparse.Namespace) -> None:
    from verispect.cli.arrays import read_array, write_array
    from verispect.proof.arithmetic import read_input, write_output
    from verispect.proof.prover.prove import prove

    context = _context(arguments.context)
    inputs = read_array(arguments.inputs)
    prover = load_prover(arguments.model)
    read = read_input(prover.model.graph.input, inputs)
    result = prove(
        prover,
        read.integers,
        mode=prover.code.mode,
        context=context,
        hidden_input=arguments.hide_input,
        progress=_progress(),
    )
    data = result.proof.encode()
    folder: Path = arguments.out
    write_file(folder / PROOF_FILE, data)
    write_array(folder / INTEGERS_FILE, result.trace.output.astype("<i8"))
    write_array(folder / ANSWER_FILE, write_output(prover.model.graph.output, result.trace.output))
    if read.clipped:
        print(f"clipped {read.clipped} values outside the model's range", file=sys.stderr)
    print(f"mode    {prover.code.mode}")
    print(f"model   {prover.model.digest.hex()}")
    print(f"proof   {len(data)} bytes in {result.cpu_seconds:.3f} s of CPU time")
    print(f"OK: wrote {folder}", file=sys.stderr)


def _progress() -> Progress | None:
    """Return a reporter of the steps, or `None` where nobody looks."""
    if not sys.stderr.isatty():
        return None

    def report(step: str, share: float) -> None:
        end = "\n" if share == 1.0 else ""
        print(f"\rproving {share:4.0%} {step:<12}", end=end, file=sys.stderr, flush=True)

    return report


def _verify(arguments: argparse.Namespace) -> None:
    from verispect.cli.arrays import read_array
    from verispect.proof.arithmetic import read_input
    from verispect.proof.parameters import Code
    from verispect.proof.verifier import verify_proof

    context = _context(arguments.context)
    model = _read_model(arguments.model)
    wanted = arguments.model_digest
    if wanted is not None and _digest(wanted, "model-digest") != model.digest:
        raise VerificationError(
            f"the model's digest is {model.digest.hex()}", reason=Reason.PROOF_WRONG_MODEL
        )
    integers = None
    clipped = 0
    if arguments.inputs is None and not model.budget:
        raise RequestError("mode succinct hides no input: give it", parameter="inputs")
    if arguments.inputs is not None:
        read = read_input(model.graph.input, read_array(arguments.inputs))
        integers, clipped = read.integers, read.clipped
    outputs = _output_integers(model, read_array(arguments.proof / INTEGERS_FILE))
    data = read_file(arguments.proof / PROOF_FILE)
    started = time.perf_counter()
    code = Code(model.columns, model.rate_bits, model.budget)
    verified = verify_proof(
        data, model=model, mode=code.mode, context=context, inputs=integers, outputs=outputs
    )
    seconds = time.perf_counter() - started
    if arguments.answer is not None:
        _compare(model, outputs, read_array(arguments.answer))
    print(f"model     {model.digest.hex()}")
    print(f"mode      {verified.mode}, {verified.security_bits:.1f} bits")
    print(f"rows      {verified.batch}{_among(verified.requests)}")
    print(f"input     {'hidden' if integers is None else f'shown, {clipped} values clipped'}")
    print(f"proof     {len(data)} bytes, verified in {1000 * seconds:.0f} ms")
    for line in _not_covered(hides=code.hides, compared=arguments.answer is not None):
        print(f"not covered: {line}")
    print("OK: the outputs are those of the committed weights", file=sys.stderr)


def _among(requests: int) -> str:
    return "" if requests == 1 else f", in a proof of {requests} requests"


def _output_integers(model: ProvableModel, array: Any) -> Any:
    if array.dtype.kind != "i" or array.shape[1:] != model.graph.shapes[model.graph.output.tensor]:
        raise RequestError("the outputs are not integers of the model's output")
    return array


def _compare(model: ProvableModel, outputs: Any, answer: Any) -> None:
    """Refuse an answer that is not, bit for bit, the one of the proven integers."""
    from verispect.proof.arithmetic import write_output

    expected = write_output(model.graph.output, outputs)
    same_kind = answer.dtype.kind == expected.dtype.kind and answer.size == expected.size
    if not same_kind or answer.astype(expected.dtype).tobytes() != expected.tobytes():
        raise VerificationError(
            "the answer is not that of the proven integers", reason=Reason.PROOF_WRONG_OUTPUT
        )


def _not_covered(*, hides: bool, compared: bool) -> list[str]:
    lines = ["that the integer model computes what the model it was made from computes"]
    if not hides:
        lines.append("secrecy: mode succinct hides nothing")
    if not compared:
        lines.append("the answer: only the output's integers were compared")
    return lines
