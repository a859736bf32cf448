"""Tree ensembles as three layers: comparisons, paths, leaves.

The input is read by *steps*: an integer is the number of a feature's thresholds below the caller's
number, so every comparison of the trees is exact. The first layer compares that integer with a
threshold's number, the second finds for each leaf whether all comparisons of its path came out its
way, the third adds the values of the leaves found. Thresholds stand in the graph, in the open; the
structure of the trees and the leaves' values are weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from verispect.proof.bounds import Integers
from verispect.proof.graph import (
    Affine,
    BinaryFraction,
    Convolve,
    Epilogue,
    Graph,
    Input,
    Output,
    Requantise,
    Table,
    padded,
)
from verispect.proof.importer.draft import unsupported
from verispect.proof.importer.onnx_file import OnnxModel, OnnxNode

_LEAF_BITS: Final = 28
_KINDS: Final = ("TreeEnsembleRegressor", "TreeEnsembleClassifier")
_MOVES: Final = ("Identity", "Cast", "ZipMap", "Reshape", "Flatten")
# Whether the branch is taken for numbers up to the step, and whether the step itself is included.
_MODES: Final[dict[bytes, tuple[bool, bool]]] = {
    b"BRANCH_LEQ": (True, True),
    b"BRANCH_LT": (True, False),
    b"BRANCH_GT": (False, True),
    b"BRANCH_GTE": (False, False),
}


@dataclass(frozen=True, slots=True)
class _Branch:
    feature: int
    step: float
    if_below: int
    if_above: int


@dataclass(slots=True)
class _Tree:
    """Branches in order, and for every leaf its path: (branch, whether below the step)."""

    branches: list[_Branch]
    leaves: list[tuple[int, tuple[tuple[int, bool], ...]]]


def find_trees(model: OnnxModel) -> OnnxNode | None:
    """Return the model's tree ensemble, if it has one."""
    return next((node for node in model.nodes if node.kind in _KINDS), None)


def import_trees(model: OnnxModel) -> tuple[Graph, tuple[Integers, ...]]:
    """Make an integer model of a tree ensemble.

    Raises:
        ModelError: `unsupported-model`.
    """
    node = find_trees(model)
    assert node is not None
    others = [each for each in model.nodes if each is not node and each.kind not in _MOVES]
    if others:
        raise unsupported(f"{others[0].kind} beside a tree ensemble: choose the ensemble's output")
    if len(model.input_shape) != 2:
        raise unsupported("the features of a tree ensemble are not a vector")
    trees = _read_trees(node.attributes)
    values, offsets, epilogue = _leaf_values(node, trees)
    return _build(model.input_shape[1], trees, values, offsets, epilogue)


def _read_trees(attributes: Mapping[str, Any]) -> list[_Tree]:
    """Return the trees, each branch turned so that it asks whether a number is at most a step."""
    if len(attributes.get("nodes_values_as_tensor", ())) > 0:
        raise unsupported("thresholds in binary64")
    by_tree: dict[int, dict[int, int]] = {}
    for place, (tree, number) in enumerate(
        zip(attributes["nodes_treeids"], attributes["nodes_nodeids"], strict=True)
    ):
        by_tree.setdefault(tree, {})[number] = place
    return [_read_tree(attributes, places) for places in by_tree.values()]


def _read_tree(attributes: Mapping[str, Any], places: dict[int, int]) -> _Tree:
    tree = _Tree([], [])
    root = next(iter(places))
    waiting: list[tuple[int, tuple[tuple[int, bool], ...]]] = [(root, ())]
    while waiting:
        number, path = waiting.pop()
        if number not in places or len(path) > len(places):
            raise unsupported("a tree whose nodes do not form a tree")
        place = places[number]
        mode = attributes["nodes_modes"][place]
        if mode == b"LEAF":
            tree.leaves.append((place, path))
            continue
        if mode not in _MODES:
            raise unsupported(f"a tree that branches by {mode.decode('ascii', 'replace')}")
        below, inclusive = _MODES[mode]
        threshold = float(np.float32(attributes["nodes_values"][place]))
        if not math.isfinite(threshold):
            raise unsupported("a threshold that is not finite")
        # The caller's numbers are binary32: below a step is at most the number before it.
        step = threshold if inclusive else float(np.nextafter(np.float32(threshold), -np.inf))
        children = attributes["nodes_truenodeids"][place], attributes["nodes_falsenodeids"][place]
        one, other = children if below else children[::-1]
        branch = len(tree.branches)
        feature = attributes["nodes_featureids"][place]
        tree.branches.append(_Branch(feature, step + 0.0, one, other))
        waiting.append((one, (*path, (branch, True))))
        waiting.append((other, (*path, (branch, False))))
    return tree


def _leaf_values(
    node: OnnxNode, trees: Sequence[_Tree]
) -> tuple[dict[int, np.ndarray[Any, Any]], np.ndarray[Any, Any], Epilogue]:
    """Return the values of each leaf by its place, what is added to them, and the epilogue."""
    attributes = node.attributes
    classifier = node.kind == "TreeEnsembleClassifier"
    prefix = "class" if classifier else "target"
    if classifier:
        labels = attributes.get("classlabels_int64s") or attributes.get("classlabels_strings")
        outputs = len(labels or ())
    else:
        outputs = attributes.get("n_targets", 1)
    ids = attributes[f"{prefix}_ids"]
    post = attributes.get("post_transform", b"NONE")
    binary = classifier and outputs == 2 and len(set(ids)) == 1
    if post not in (b"NONE", b"SOFTMAX") and not (post == b"LOGISTIC" and binary):
        raise unsupported(
            f"the transformation {post.decode('ascii', 'replace')} of a tree's scores"
        )
    average = attributes.get("aggregate_function", b"SUM")
    if average not in (b"SUM", b"AVERAGE"):
        raise unsupported("trees that are combined by a minimum or maximum")
    share = 1.0 / len(trees) if average == b"AVERAGE" else 1.0
    positions = {
        (tree, number): place
        for place, (tree, number) in enumerate(
            zip(attributes["nodes_treeids"], attributes["nodes_nodeids"], strict=True)
        )
    }
    values: dict[int, np.ndarray[Any, Any]] = {}
    for tree, number, target, weight in zip(
        attributes[f"{prefix}_treeids"],
        attributes[f"{prefix}_nodeids"],
        ids,
        attributes[f"{prefix}_weights"],
        strict=True,
    ):
        if not math.isfinite(weight) or not 0 <= target < outputs:
            raise unsupported("a leaf's value that is not finite or has no target")
        row = values.setdefault(positions[tree, number], np.zeros(outputs))
        row[target] += share * weight
    offsets = np.zeros(outputs)
    base = np.array(attributes.get("base_values") or [], np.float64)
    if binary:
        return _binary(values, ids[0], base, post)
    if base.size not in (0, outputs):
        raise unsupported("base values that are not one for each target")
    offsets[: base.size] = base
    return values, offsets, Epilogue.SOFTMAX if post == b"SOFTMAX" else Epilogue.NONE


def _binary(
    values: dict[int, np.ndarray[Any, Any]],
    target: int,
    base: np.ndarray[Any, Any],
    post: bytes,
) -> tuple[dict[int, np.ndarray[Any, Any]], np.ndarray[Any, Any], Epilogue]:
    """Give one score the two outputs of its class and the other.

    A logistic function of a score is the softmax of 0 and the score.
    """
    score = float(base[-1]) if base.size else 0.0
    if post == b"LOGISTIC":
        found = {place: np.array([0.0, row[target]]) for place, row in values.items()}
        return found, np.array([0.0, score]), Epilogue.SOFTMAX
    if post == b"SOFTMAX" or any(float(row[target]) < 0 for row in values.values()):
        raise unsupported("two classes with one score that is no probability")
    found = {place: np.array([-row[target], row[target]]) for place, row in values.items()}
    return found, np.array([1.0 - score, score]), Epilogue.NONE


def _build(
    features: int,
    trees: Sequence[_Tree],
    values: dict[int, np.ndarray[Any, Any]],
    offsets: np.ndarray[Any, Any],
    epilogue: Epilogue,
) -> tuple[Graph, tuple[Integers, ...]]:
    used = [branch for tree in trees for branch in tree.branches]
    if any(not 0 <= branch.feature < features for branch in used):
        raise unsupported("a branch on a feature that the input does not have")
    found: list[set[float]] = [set() for _ in range(features)]
    for branch in used:
        found[branch.feature].add(branch.step)
    steps = [sorted(each) for each in found]
    count = max(map(len, steps))
    branches = padded(max(1, *(len(tree.branches) for tree in trees)))
    leaves = padded(max(len(tree.leaves) for tree in trees))
    total = len(trees)
    select = np.zeros((1, total * branches, features), np.int64)
    # An unused branch compares 0 with -1 and so is never below.
    numbers = np.ones(total * branches, np.int64)
    paths = np.zeros((total, leaves, branches), np.int64)
    # An unused leaf is never found.
    needed = np.full(total * leaves, -1, np.int64)
    outputs = len(offsets)
    real = np.zeros((1, outputs, total * leaves))
    for number, tree in enumerate(trees):
        for place, branch in enumerate(tree.branches):
            row = number * branches + place
            select[0, row, branch.feature] = 1
            numbers[row] = -steps[branch.feature].index(branch.step)
        for place, (leaf, path) in enumerate(tree.leaves):
            for step, below in path:
                paths[number, place, step] = 1 if below else -1
            needed[number * leaves + place] = -sum(below for _, below in path)
            if leaf in values:
                real[0, :, number * leaves + place] = values[leaf]
    largest = max(float(np.abs(real).max()), 1e-30)
    scale = math.ldexp(1.0, math.frexp(largest)[1] - _LEAF_BITS)
    depth = max(len(path) for tree in trees for _, path in tree.leaves)
    compare, match = _step_table(count, 1, below=True), _step_table(depth + 1, 0, below=False)
    nodes = (
        _layer(0, 0, 1, Requantise(0, 0), total * branches),
        _layer(1, 2, 3, Requantise(0, 1), total * leaves),
        _layer(2, 4, 5, None, outputs),
    )
    weights = (
        select,
        numbers,
        paths,
        needed,
        np.rint(real / scale).astype(np.int64),
        np.rint(offsets / scale).astype(np.int64),
    )
    source = Input(
        (features,),
        0,
        count,
        BinaryFraction.of(1.0),
        (0,),
        tuple(tuple(each) for each in steps),
    )
    graph = Graph(
        source,
        tuple(weight.shape for weight in weights),
        (compare, match),
        nodes,
        Output(3, BinaryFraction.of(scale), epilogue),
        8,
    )
    return graph, weights


def _layer(
    source: int, weight: int, bias: int, requantise: Requantise | None, outputs: int
) -> Affine:
    return Affine((Convolve(source, weight, (), (), ()),), bias, requantise, (outputs,))


def _step_table(low: int, high: int, *, below: bool) -> Table:
    """Return the table of `q <= 0`, or of `q >= 0`, wide enough for both ends."""
    size = 2 * padded(max(low, high, 1) + 1)
    arguments = np.arange(-size // 2, size // 2)
    values = arguments <= 0 if below else arguments >= 0
    return Table(-size // 2, values.astype("<i2").tobytes())
