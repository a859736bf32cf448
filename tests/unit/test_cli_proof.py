"""`verispect proof` and `models add --integer` as a user meets them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from verispect.cli import main
from verispect.cli.arrays import read_array
from verispect.core.errors import RequestError
from verispect.proof.provable import ProvableModel, decode_weights, encode_weights
from verispect.proof.prover.prove import commit_model

SAMPLES = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)


def _onnx() -> bytes:
    rng = np.random.default_rng(1)
    constants = {
        "w1": rng.normal(size=(8, 6)).astype(np.float32),
        "w2": rng.normal(size=(3, 8)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1"], ["a"], transB=1),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Gemm", ["b", "w2"], ["y"], transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _proof(*arguments: object) -> int:
    return main.main(["proof", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Import one model in both modes and prove one batch of each."""
    folder = tmp_path_factory.mktemp("proof")
    (folder / "m.onnx").write_bytes(_onnx())
    np.save(folder / "samples.npy", SAMPLES)
    np.save(folder / "inputs.npy", SAMPLES[:2])
    source = [folder / "m.onnx", "--calibration", folder / "samples.npy"]
    assert _proof("import", *source, "--out", folder / "open") == 0
    assert _proof("import", *source, "--out", folder / "hidden", "--zero-knowledge", 2) == 0
    inputs = ["--inputs", folder / "inputs.npy"]
    assert _proof("prove", folder / "open", *inputs, "--out", folder / "open-proof") == 0
    hidden = ["prove", folder / "hidden", *inputs, "--hide-input", "--out", folder / "hidden-proof"]
    assert _proof(*hidden) == 0
    return folder


def _verify(made: Path, mode: str = "open", *further: object, proof: Path | None = None) -> int:
    model = made / mode / "provable-model.cbor"
    return _proof("verify", proof or made / f"{mode}-proof", "--model", model, *further)


def test_a_proof_is_verified_with_the_public_half_of_the_model(made, capsys) -> None:
    """Whoever has model, inputs and answer verifies, and is told what is not covered."""
    shown = ["--inputs", made / "inputs.npy", "--answer", made / "open-proof" / "answer.npy"]
    assert _verify(made, "open", *shown) == 0
    told = capsys.readouterr()
    assert told.err.startswith("OK:")
    assert "succinct" in told.out
    assert "not covered: secrecy: mode succinct hides nothing" in told.out
    bits = re.search(r"([0-9.]+) bits", told.out)
    assert bits is not None
    assert float(bits[1]) >= 100


def test_a_hidden_input_is_not_needed_and_not_in_the_proof_folder(made, capsys) -> None:
    """A proof in mode zero-knowledge verifies without the input."""
    assert _verify(made, "hidden") == 0
    told = capsys.readouterr()
    assert "zero-knowledge" in told.out
    assert "hidden" in told.out
    assert "hides nothing" not in told.out
    kept = {path.name for path in (made / "hidden-proof").iterdir()}
    assert kept == {"proof.cbor", "outputs.npy", "answer.npy"}


def test_another_input_context_model_or_output_is_refused(made, tmp_path, capsys) -> None:
    """Each change is refused with its own reason and exit code 1."""
    other = tmp_path / "other.npy"
    np.save(other, SAMPLES[2:4])
    right = ["--inputs", made / "inputs.npy"]
    changed = shutil.copytree(made / "open-proof", tmp_path / "changed")
    outputs = np.load(changed / "outputs.npy")
    outputs[0, 0] += 1
    np.save(changed / "outputs.npy", outputs)
    answer = np.load(made / "open-proof" / "answer.npy")
    np.save(tmp_path / "answer.npy", np.nextafter(answer, np.float32(9)))
    cases = {
        "proof-wrong-input": (["--inputs", other], None),
        "proof-wrong-context": ([*right, "--context", "11" * 32], None),
        "proof-wrong-output": (right, changed),
    }
    for reason, (arguments, proof) in cases.items():
        assert _verify(made, "open", *arguments, proof=proof) == 1
        assert reason in capsys.readouterr().err
    assert _verify(made, "open", *right, "--answer", tmp_path / "answer.npy") == 1
    assert "proof-wrong-output" in capsys.readouterr().err
    assert _verify(made, "open", *right, "--model-digest", "22" * 32) == 1
    assert "proof-wrong-model" in capsys.readouterr().err
    assert _verify(made, "hidden", *right, proof=made / "open-proof") == 1
    assert "proof-wrong-model" in capsys.readouterr().err


def test_a_damaged_proof_file_is_malformed(made, tmp_path) -> None:
    """A cut proof is not understood, which is another exit code than a refusal."""
    cut = shutil.copytree(made / "open-proof", tmp_path / "cut")
    data = (cut / "proof.cbor").read_bytes()
    (cut / "proof.cbor").write_bytes(data[:-1])
    assert _verify(made, "open", "--inputs", made / "inputs.npy", proof=cut) == 3


def test_a_proof_is_about_its_context(made, tmp_path) -> None:
    """A proof made for a context verifies for that context."""
    context = ["--context", "33" * 32]
    inputs = ["--inputs", made / "inputs.npy"]
    assert _proof("prove", made / "open", *inputs, *context, "--out", tmp_path) == 0
    assert _verify(made, "open", *inputs, *context, proof=tmp_path) == 0
    assert _verify(made, "open", *inputs, proof=tmp_path) == 1


def test_hidden_weights_are_opened_as_often_as_they_are_masked_for(made, tmp_path, capsys) -> None:
    """The third proof of a commitment for two is refused before it is made."""
    folder = shutil.copytree(made / "hidden", tmp_path / "hidden")
    inputs = ["--inputs", made / "inputs.npy"]
    assert _proof("prove", folder, *inputs, "--out", tmp_path / "second") == 0
    assert _proof("prove", folder, *inputs, "--out", tmp_path / "third") == 4
    assert "masks-exhausted" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_hidden_weights_are_their_owners_alone(made) -> None:
    """Others on the machine cannot read what the proofs hide."""
    for name in ("weights.cbor", "commitment.bin"):
        assert stat.S_IMODE((made / "hidden" / name).stat().st_mode) == 0o600


def test_mode_succinct_hides_no_input(made, tmp_path) -> None:
    """Asking to hide the input of a model that hides nothing is an error, never ignored."""
    inputs = ["--inputs", made / "inputs.npy"]
    assert _proof("prove", made / "open", *inputs, "--hide-input", "--out", tmp_path / "p") == 2
    assert _proof("estimate", made / "open", "--hide-input") == 2


def test_the_commitment_is_made_again_where_only_the_weights_are_left(made, tmp_path) -> None:
    """Without the stored commitment a succinct model still proves, under the same digest."""
    folder = shutil.copytree(made / "open", tmp_path / "open")
    (folder / "commitment.bin").unlink()
    inputs = ["--inputs", made / "inputs.npy"]
    assert _proof("prove", folder, *inputs, "--out", tmp_path / "p") == 0
    assert _verify(made, "open", *inputs, proof=tmp_path / "p") == 0


def test_estimate_says_the_size_before_the_work(made, capsys) -> None:
    """The estimated size is near the real one; time and memory are given."""
    assert _proof("estimate", made / "open", "--batch", "2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    size = (made / "open-proof" / "proof.cbor").stat().st_size
    assert abs(said["proofBytes"] - size) < size / 10
    assert said["cpuSeconds"] > 0
    assert said["memoryBytes"] > 0


def test_an_array_file_that_could_run_or_lies_is_refused(tmp_path) -> None:
    """Pickles, other element types and headers that promise more than the file are refused."""
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    plain = tmp_path / "plain.npy"
    plain.write_bytes(pickle.dumps([1]))
    words = tmp_path / "words.npy"
    np.save(words, np.array(["a"]))
    promising = tmp_path / "promising.npy"
    np.save(promising, np.zeros((4, 4), np.float32))
    data = promising.read_bytes()
    promising.write_bytes(data.replace(b"(4, 4)", b"(4,444)"))
    assert promising.read_bytes() != data
    for path in (pickled, plain, words, promising):
        with pytest.raises(RequestError):
            read_array(path)


def test_an_integer_model_is_registered_with_its_own_weights_only(made, tmp_path, capsys) -> None:
    """A folder is registered by name, one that hides its weights too; other weights are refused."""
    registry = ["--registry", str(tmp_path / "registry")]
    add = ["models", "add", "--name", "small", *registry, "--integer"]
    assert main.main([*add, str(made / "open")]) == 0
    assert re.fullmatch("[0-9a-f]{64}", capsys.readouterr().out.strip())
    assert main.main(["models", "list", *registry]) == 0
    assert "exact" in capsys.readouterr().out
    hidden = ["models", "add", "--name", "hidden", *registry, "--integer"]
    assert main.main([*hidden, str(made / "hidden")]) == 0
    for kind in ("open", "hidden"):
        _refuse_other_weights(made / kind, tmp_path / f"forged-{kind}", add, capsys)


def _refuse_other_weights(folder, copy, add, capsys) -> None:
    forged = shutil.copytree(folder, copy)
    model = ProvableModel.decode((forged / "provable-model.cbor").read_bytes())
    weights = [
        weight.astype(np.int64)
        for weight in decode_weights(model.graph, (forged / "weights.cbor").read_bytes())
    ]
    first = weights[0].reshape(-1)
    first[0] -= np.sign(first[0]) or -1
    (forged / "weights.cbor").write_bytes(encode_weights(weights))
    capsys.readouterr()
    assert main.main([*add, str(forged)]) == 4
    assert "model-changed" in capsys.readouterr().err


def test_weights_whose_values_could_leave_their_range_are_not_registered(
    made, tmp_path, capsys
) -> None:
    """An honest commitment to weights that break the model's bounds is refused."""
    folder = shutil.copytree(made / "open", tmp_path / "wide")
    model = ProvableModel.decode((folder / "provable-model.cbor").read_bytes())
    weights = decode_weights(model.graph, (folder / "weights.cbor").read_bytes())
    wide = [weight.astype(np.int64) * 1000 for weight in weights]
    again, _ = commit_model(model.graph, wide, columns=model.columns, rate_bits=model.rate_bits)
    (folder / "provable-model.cbor").write_bytes(again.encode())
    (folder / "weights.cbor").write_bytes(encode_weights(wide))
    registry = ["--registry", str(tmp_path / "registry")]
    assert main.main(["models", "add", "--name", "wide", *registry, "--integer", str(folder)]) == 4
    assert "malformed-model" in capsys.readouterr().err


def test_a_model_of_the_catalogue_is_imported_by_its_name(tmp_path, capsys) -> None:
    """The pinned file of an installed package becomes provable; another name is refused."""
    lines = np.random.default_rng(2).uniform(-1, 1, (2, 3, 48, 192)).astype(np.float32)
    np.save(tmp_path / "lines.npy", lines)
    source = ["--calibration", tmp_path / "lines.npy", "--input-shape", "3,48,192"]
    named = ["import", "--catalogue", "text-direction", *source, "--out", tmp_path / "provable"]
    assert _proof(*named) == 0
    assert re.fullmatch("[0-9a-f]{64}", capsys.readouterr().out.splitlines()[-1])
    unknown = ["import", "--catalogue", "text-directions", *source, "--out", tmp_path / "other"]
    assert _proof(*unknown) == 4
    assert "model-not-found" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        _proof("import", tmp_path / "m.onnx", *named[1:])
    assert caught.value.code == 2


def test_what_was_mistyped_is_told_apart_from_what_is_refused(made, capsys) -> None:
    """A word that is no digest and an input left out are errors of usage."""
    inputs = ["--inputs", made / "inputs.npy"]
    for further, told in (
        ([*inputs, "--context", "zz"], "32 octets"),
        ([*inputs, "--context", "33"], "32 octets"),
        ([*inputs, "--model-digest", "AB" * 32], "lower-case"),
        ([], "hides no input"),
    ):
        assert _verify(made, "open", *further) == 2
        assert told in capsys.readouterr().err
