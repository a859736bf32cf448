"""The encoding of a graph (spec/integer-model.md section 2): deterministic CBOR, both ways.

Every list has its exact length and every entry its exact type; anything else is refused. This
module checks form only; what the numbers may be is checked by the parts and by `graph.Graph`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from verispect.core.encoding import decode, encode
from verispect.core.errors import Reason, UnsupportedError
from verispect.proof.binary_fraction import BinaryFraction
from verispect.proof.graph_parts import (
    MAX_AXIS,
    MAX_GRAPH_BYTES,
    MAX_STEPS,
    Affine,
    Convolve,
    Embed,
    Epilogue,
    Input,
    Maximum,
    Multiply,
    Node,
    Output,
    Requantise,
    Scale,
    Shape,
    Table,
    Term,
    Window,
    malformed,
)

GRAPH_VERSION: Final = 1

_MAX_ITEMS: Final = 1 << 20
_SMALL: Final = 1 << 40
_STEP_BYTES: Final = 8

Parts = tuple[Input, tuple[Shape, ...], tuple[Table, ...], tuple[Node, ...], Output, int]


def encode_parts(
    source: Input,
    weights: tuple[Shape, ...],
    tables: tuple[Table, ...],
    nodes: tuple[Node, ...],
    output: Output,
    range_bits: int,
) -> bytes:
    """Return the one encoding of a graph with these parts."""
    steps = source.steps
    return encode(
        {
            1: GRAPH_VERSION,
            2: [
                list(source.shape),
                source.minimum,
                source.maximum,
                _scale_form(source.scale),
                list(source.order),
                None if steps is None else [np.array(each, "<f8").tobytes() for each in steps],
            ],
            3: [list(shape) for shape in weights],
            4: [[table.first, table.data] for table in tables],
            5: [_node_form(node) for node in nodes],
            6: [output.tensor, _scale_form(output.scale), int(output.epilogue)],
            7: range_bits,
        }
    )


def _scale_form(scale: BinaryFraction) -> list[int]:
    return [scale.mantissa, scale.exponent]


def _requantise_form(requantise: Requantise | None) -> list[int] | None:
    return None if requantise is None else [requantise.shift, requantise.table]


def _node_form(node: Node) -> list[Any]:
    if isinstance(node, Affine):
        terms = [_term_form(term) for term in node.terms]
        return [1, terms, node.bias, _requantise_form(node.requantise), list(node.shape)]
    if isinstance(node, Multiply):
        return [2, node.left, node.right, _requantise_form(node.requantise)]
    return [3, node.source, node.axis, node.kernel, node.stride, node.before, node.after]


def _term_form(term: Term) -> list[Any]:
    if isinstance(term, Convolve):
        lists = [list(term.strides), list(term.before), list(term.dilations)]
        return [1, term.source, term.weight, *lists]
    if isinstance(term, Window):
        lists = [list(term.kernel), list(term.strides), list(term.before)]
        return [2, term.source, term.multiplier, *lists]
    if isinstance(term, Scale):
        return [3, term.source, term.multiplier]
    return [4, term.source, term.axis, term.offset, term.multiplier]


# -- Reading ------------------------------------------------------------------------------------


def decode_parts(data: bytes) -> Parts:
    """Read the parts of a graph, checking their form and each by itself.

    Raises:
        MalformedError: `malformed-cbor`, `malformed-model`, `too-large` or `too-deep`.
        UnsupportedError: `unsupported-version`.
    """
    value = decode(data, limit=MAX_GRAPH_BYTES, maximum_items=_MAX_ITEMS)
    if type(value) is not dict:
        raise malformed("a graph is not a map")
    if value.get(1) != GRAPH_VERSION or type(value.get(1)) is not int:
        if type(value.get(1)) is int:
            raise UnsupportedError(
                f"expected graph version {GRAPH_VERSION}, got {value[1]}",
                reason=Reason.UNSUPPORTED_VERSION,
            )
        raise malformed("a graph has no version")
    if list(value) != [1, 2, 3, 4, 5, 6, 7]:
        raise malformed("a graph's keys are not 1 to 7")
    tensor, scale, epilogue = _items(value[6], 3)
    return (
        _input(value[2]),
        tuple(_sizes(shape) for shape in _list(value[3])),
        tuple(_table(table) for table in _list(value[4])),
        tuple(_node(node) for node in _list(value[5])),
        Output(_integer(tensor), _scale(scale), _epilogue(epilogue)),
        _integer(value[7]),
    )


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise malformed("expected a list")
    return value


def _items(value: Any, count: int) -> list[Any]:
    if len(_list(value)) != count:
        raise malformed(f"expected a list of {count}, got {len(value)}")
    return list(value)


def _integer(value: Any) -> int:
    # A bound on every number, so that products of a few of them stay small.
    if type(value) is not int or not -_SMALL <= value <= _SMALL:
        raise malformed("expected an integer of 40 bits")
    return value


def _sizes(value: Any) -> Shape:
    sizes = tuple(_integer(size) for size in _list(value))
    if any(size > MAX_AXIS for size in sizes):
        raise malformed("a size is out of range")
    return sizes


def _scale(value: Any) -> BinaryFraction:
    mantissa, exponent = _items(value, 2)
    if type(mantissa) is not int or type(exponent) is not int:
        raise malformed("expected a scale")
    return BinaryFraction(mantissa, exponent)


def _epilogue(value: Any) -> Epilogue:
    try:
        return Epilogue(_integer(value))
    except ValueError:
        raise malformed("the epilogue is unknown") from None


def _input(value: Any) -> Input:
    shape, minimum, maximum, scale, order, steps = _items(value, 6)
    return Input(
        _sizes(shape),
        _integer(minimum),
        _integer(maximum),
        _scale(scale),
        _sizes(order),
        None if steps is None else tuple(_steps(each) for each in _list(steps)),
    )


def _steps(value: Any) -> tuple[float, ...]:
    if type(value) is not bytes or len(value) % _STEP_BYTES or len(value) > 8 * MAX_STEPS:
        raise malformed("steps are not a string of doubles")
    steps = np.frombuffer(value, "<f8")
    # Minus zero equals zero but is written otherwise: one number, one form.
    if bool(np.any((steps == 0) & np.signbit(steps))):
        raise malformed("a step is minus zero")
    return tuple(steps.tolist())


def _table(value: Any) -> Table:
    first, data = _items(value, 2)
    if type(data) is not bytes:
        raise malformed("a table's values are not bytes")
    return Table(_integer(first), data)


def _requantise(value: Any) -> Requantise:
    shift, table = _items(value, 2)
    return Requantise(_integer(shift), _integer(table))


def _node(value: Any) -> Node:
    kind = _list(value)[0] if _list(value) else None
    if kind == 1:
        _, terms, bias, requantise, shape = _items(value, 5)
        return Affine(
            tuple(_term(term) for term in _list(terms)),
            None if bias is None else _integer(bias),
            None if requantise is None else _requantise(requantise),
            _sizes(shape),
        )
    if kind == 2:
        _, left, right, requantise = _items(value, 4)
        return Multiply(_integer(left), _integer(right), _requantise(requantise))
    if kind == 3:
        return Maximum(*(_integer(item) for item in _items(value, 7)[1:]))
    raise malformed("the type of a node is unknown")


def _term(value: Any) -> Term:
    kind = _list(value)[0] if _list(value) else None
    if kind == 1:
        _, source, weight, *lists = _items(value, 6)
        return Convolve(_integer(source), _integer(weight), *(_sizes(each) for each in lists))
    if kind == 2:
        _, source, multiplier, *lists = _items(value, 6)
        return Window(_integer(source), _integer(multiplier), *(_sizes(each) for each in lists))
    if kind == 3:
        return Scale(*(_integer(item) for item in _items(value, 3)[1:]))
    if kind == 4:
        return Embed(*(_integer(item) for item in _items(value, 5)[1:]))
    raise malformed("the type of a term is unknown")
