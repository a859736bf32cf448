"""Section 9 of the protocol: all claims about committed arrays become one combination of rows.

A polynomial that is one large array is never expanded: its views are products over the axes, so it
is contracted with their low parts once, the first rounds run over the short results, and a
contraction from the other side with the bound point leaves the low part. Small and packed
polynomials are expanded. Polynomials of one shape go through the rounds together.

This module refuses nothing; the combination is of rows as they are committed, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from verispect.proof import field as algebra
from verispect.proof.field import ONE, ZERO, Array, Element
from verispect.proof.layout import Polynomial
from verispect.proof.prover import contractions, kernels_contract, views
from verispect.proof.prover import kernels_sumcheck as kernels
from verispect.proof.prover.channel import Channel, Claims, Form, combine
from verispect.proof.prover.views import Claim, Point, View
from verispect.proof.prover.witness import Group, Integers, Witness

_DENSE = 14
"""Nanoseconds of a round per entry over `F`, a contraction's being one."""


@dataclass(slots=True)
class _Opened:
    """One polynomial on its way through the rounds."""

    number: int
    group: Group
    polynomial: Polynomial
    views: list[View]
    low: int
    """The variables of the low part, all of them where the polynomial is expanded."""
    lows: list[Array] = field(default_factory=list)
    """The views' low parts, where the polynomial is not expanded."""

    @property
    def variables(self) -> int:
        """The number of variables."""
        return self.polynomial.variables

    @property
    def array(self) -> Integers:
        """The one array that the polynomial is."""
        return self.group.arrays[self.polynomial.members[0]]

    @property
    def stored(self) -> int:
        """The entries up to the last row that is stored."""
        return self.polynomial.rows * self.group.layout.columns


@dataclass(slots=True)
class _Batch:
    """Polynomials with the same numbers of variables, high and low, in the same rounds."""

    variables: int
    low: int
    members: list[_Opened]
    left: Array = field(default_factory=lambda: np.zeros((0, 0, 2), np.uint64))
    right: Array = field(default_factory=lambda: np.zeros((0, 0, 2), np.uint64))
    whole: Element = ZERO
    lead: Element = ONE
    bound: int = 0
    """The length of the tables with a challenge yet to be bound, 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What an opening leaves: the point, the polynomials' values, and the rows' coefficients."""

    point: Array
    values: list[Form]


def opening(
    channel: Channel, witness: Witness, claims: Sequence[Claim], column_variables: int
) -> Opening:
    """Run the last sumcheck and send the evaluations."""
    opened = _distribute(channel, witness, claims, column_variables)
    rho_claim = opened.claim
    batches = opened.batches
    for batch in batches:
        _begin(batch)
    total = algebra.total_of(batch.whole for batch in batches)
    rounds = max([column_variables, *(batch.variables for batch in batches)])
    running = Claims(channel, Form(total, rho_claim.masks), 2)
    point: list[Element] = []
    lead = ONE
    previous = np.zeros(2, np.uint64)
    for left in range(rounds, 0, -1):
        values = [ZERO, ZERO]
        for batch in batches:
            if batch.variables < left:
                waiting = lead * batch.whole
                values = [values[0] + waiting, values[1] - waiting]
                continue
            if batch.variables == left:
                batch.lead = lead
            if left == batch.low and batch.low < batch.variables:
                _turn(batch, previous, views.array_of(point[rounds - batch.variables :]))
            first, second = _round(batch, left, previous)
            values = [values[0] + batch.lead * first, values[1] + batch.lead * second]
        r = running.round(values)
        point.append(r)
        lead = lead * (ONE - r)
        previous = views.array_of([r])[0]
    return Opening(views.array_of(point), _evaluations(channel, opened, running, previous))


def _evaluations(
    channel: Channel, opened: _Distributed, running: Claims, previous: Array
) -> list[Form]:
    """Bind the last challenge and send every polynomial's value."""
    evaluations = [ZERO] * opened.count
    finals: list[tuple[_Opened, Element, Element]] = []
    for batch in opened.batches:
        if batch.bound:
            kernels.pairs_round(batch.left, batch.right, batch.bound, previous, True)
        for i, member in enumerate(batch.members):
            value = algebra.to_element(batch.left[i, 0])
            evaluations[member.number] = value
            finals.append((member, batch.lead, algebra.to_element(batch.right[i, 0])))
    values_sent = channel.exchange("evaluations", evaluations)
    if channel.hides:
        terms = [(factor * z, values_sent[member.number]) for member, factor, z in finals]
        channel.require(combine([*terms, (-ONE, running.form())]))
    return values_sent


def _round(batch: _Batch, left: int, previous: Array) -> tuple[Element, Element]:
    """Bind the challenge that is not bound yet; return the sums at 0 and 2."""
    size = batch.bound or 1 << _in_use(batch, left)
    sums = kernels.pairs_round(batch.left, batch.right, size, previous, batch.bound > 0)
    a, b, c, d = map(int, sums)
    batch.bound = 1 << _in_use(batch, left)
    return Element(a, b), Element(c, d)


@dataclass(frozen=True, slots=True)
class _Distributed:
    claim: Form
    batches: list[_Batch]
    count: int


def _distribute(
    channel: Channel, witness: Witness, claims: Sequence[Claim], column_variables: int
) -> _Distributed:
    """Weight the claims and give every polynomial its views."""
    rho, power = channel.challenge("rho"), ONE
    by_key: dict[views.Key, list[View]] = {}
    forms: list[tuple[Element, Form]] = []
    for claim in claims:
        for view in claim.views:
            weighted = View(view.key, view.factor * power, view.axes)
            by_key.setdefault(view.key, []).append(weighted)
        forms.append((power, claim.form))
        power = power * rho
    batches: dict[tuple[int, int], _Batch] = {}
    number = 0
    for group in witness.groups:
        for polynomial in group.layout.polynomials:
            found = [view for i in polynomial.members for view in by_key.get(group.keys[i], [])]
            packed = len(polynomial.members) > 1 or not found
            wide = group.arrays[polynomial.members[0]].dtype == np.int64
            low = polynomial.variables
            whole = group.layout.places[polynomial.members[0]].variables == low
            if whole and not packed and not wide:
                low = _low_part(polynomial.variables, column_variables, found)
            batch = batches.setdefault(
                (polynomial.variables, low), _Batch(polynomial.variables, low, [])
            )
            batch.members.append(_Opened(number, group, polynomial, found, low))
            number += 1
    whole_claim = combine(forms) if channel.hides else Form(ZERO)
    return _Distributed(whole_claim, list(batches.values()), number)


def _low_part(variables: int, columns: int, found: list[View]) -> int:
    """Return the number of low variables that makes an opening cheapest."""
    allowed = set(range(1, variables + 1))
    for view in found:
        place = variables
        for axis in view.axes:
            if not isinstance(axis, Point):
                allowed -= set(range(place - axis.variables + 1, place))
            place -= axis.variables

    def cost(low: int) -> float:
        short = len(found) << (variables - low)
        rounds = _DENSE * (short + (1 << low))
        passes = 0 if low == variables else len(found) + (1 if low == columns else 2)
        return rounds + passes * (1 << variables)

    return min(allowed, key=lambda low: (cost(low), low))


def _begin(batch: _Batch) -> None:
    """Make the tables of the first rounds, and the batch's share of the claim."""
    if batch.low == batch.variables:
        batch.left = np.stack([_expanded(member) for member in batch.members])
        batch.right = np.stack([_weights(member) for member in batch.members])
    else:
        lefts, rights = [], []
        for member in batch.members:
            for view in member.views:
                high, low = _halves(view, member.low)
                member.lows.append(low)
                lefts.append(_contracted(member, low))
                rights.append(high)
        batch.left, batch.right = np.stack(lefts), np.stack(rights)
    count = batch.left.shape[0] * batch.left.shape[1]
    flat = kernels.inner_product(batch.left.reshape(count, 2), batch.right.reshape(count, 2))
    batch.whole = Element(*map(int, flat))


def _in_use(batch: _Batch, left: int) -> int:
    """Return the variables of the tables in use with `left` variables of all unbound."""
    return left - batch.low if left > batch.low else left


def _expanded(member: _Opened) -> Array:
    result = np.zeros((1 << member.variables, 2), np.uint64)
    for i in member.polynomial.members:
        array, offset = member.group.arrays[i], member.group.layout.places[i].offset
        result[offset : offset + array.size, 0] = algebra.from_integers(array)
    return result


def _weights(member: _Opened) -> Array:
    """Return the sum of all views, expanded over the polynomial's places."""
    result = np.zeros((1 << member.variables, 2), np.uint64)
    places = {
        member.group.keys[i]: member.group.layout.places[i] for i in member.polynomial.members
    }
    for view in member.views:
        whole = _product_of(view.axes)
        start = places[view.key].offset
        target = result[start : start + whole.shape[0]]
        kernels.add_scaled(target, whole, views.array_of([view.factor])[0])
    return result


_ONE: Array = np.array([[1, 0]], np.uint64)


def _product_of(axes: Sequence[views.Axis]) -> Array:
    points: list[Array] = []
    result = _ONE
    for axis in axes:
        if isinstance(axis, Point):
            points.append(axis.coordinates)
            continue
        if points:
            result = _outer(result, kernels.eq_table(np.concatenate(points)))
            points = []
        result = _outer(result, axis.entries)
    if points:
        result = _outer(result, kernels.eq_table(np.concatenate(points)))
    return result


def _outer(left: Array, right: Array) -> Array:
    if left is _ONE:
        return right
    result: Array = kernels.outer(left, right)
    return result


def _halves(view: View, low: int) -> tuple[Array, Array]:
    """Return a view's high part, with its factor, and its low part."""
    left = sum(axis.variables for axis in view.axes)
    high_axes: list[views.Axis] = []
    low_axes: list[views.Axis] = []
    for axis in view.axes:
        stop = left - axis.variables
        if stop >= low:
            high_axes.append(axis)
        elif left <= low:
            low_axes.append(axis)
        else:
            assert isinstance(axis, Point)
            high_axes.append(Point(axis.coordinates[: left - low]))
            low_axes.append(Point(axis.coordinates[left - low :]))
        left = stop
    high = np.zeros((1 << sum(axis.variables for axis in high_axes), 2), np.uint64)
    kernels.add_scaled(high, _product_of(high_axes), views.array_of([view.factor])[0])
    return high, _product_of(low_axes)


def _matrix(member: _Opened) -> Integers:
    """Return the array as a matrix over the low part, without rows that are not stored."""
    rows = -(-member.stored >> member.low)
    columns = 1 << member.low
    return member.array[: min(rows * columns, member.array.size)].reshape(-1, columns)


def _contracted(member: _Opened, low: Array) -> Array:
    matrix = _matrix(member)
    result = np.zeros((1 << (member.variables - member.low), 2), np.uint64)
    parts = kernels_contract.halves(low)
    span = kernels_contract.span_for(contractions.largest(matrix))
    kernels_contract.contract_low(matrix, parts, span, result[: matrix.shape[0]])
    return result


def _turn(batch: _Batch, previous: Array, point: Array) -> None:
    """Leave the high part: bind its last challenge and make the tables of the low part."""
    kernels.pairs_round(batch.left, batch.right, batch.bound, previous, True)
    eq = kernels.eq_table(point)
    shape = (len(batch.members), 1 << batch.low, 2)
    left, right = np.empty(shape, np.uint64), np.zeros(shape, np.uint64)
    bound = batch.right[:, 0]
    start = 0
    for i, member in enumerate(batch.members):
        matrix = _matrix(member)
        parts = kernels_contract.halves(eq[: matrix.shape[0]])
        span = kernels_contract.span_for(contractions.largest(matrix))
        kernels_contract.contract_high(parts, matrix, span, left[i])
        for low in member.lows:
            kernels.add_scaled(right[i], low, bound[start])
            start += 1
        member.lows = []
    batch.left, batch.right, batch.bound = left, right, 0


def row_weights(witness: Witness, point: Array, theta: Element) -> list[Array]:
    """Return, for every commitment, the factor of each row in `combination`."""
    power = theta
    result = []
    for group in witness.groups:
        columns = group.layout.column_variables
        weights = np.empty((group.layout.rows, 2), np.uint64)
        for polynomial in group.layout.polynomials:
            upper = views.suffix(point, polynomial.variables)[: polynomial.variables - columns]
            table = np.zeros((1 << (polynomial.variables - columns), 2), np.uint64)
            kernels.add_scaled(table, kernels.eq_table(upper), views.array_of([power])[0])
            stop = polynomial.first_row + polynomial.rows
            weights[polynomial.first_row : stop] = table[: polynomial.rows]
            power = power * theta
        result.append(weights)
    return result
