"""The rounds of a sumcheck (spec/proof.md sections 7 to 9).

The value at 1 is never sent: it is the claim minus the value at 0, so that a round cannot break its
claim. What a false claim breaks is the value at the end, which callers MUST require.
"""

from __future__ import annotations

from verispect.proof.field import MODULUS, Element
from verispect.proof.verifier.channel import Channel, V

_HALF = pow(2, -1, MODULUS)
_SIXTH = pow(6, -1, MODULUS)


def run_rounds(
    channel: Channel[V], variables: int, degree: int, claim: V
) -> tuple[tuple[Element, ...], V]:
    """Return the point that was drawn and the claim about it that is left to require.

    Args:
        channel: where rounds come from.
        variables: how many rounds.
        degree: 2, with values at 0 and 2 in a round, or 3, with those at 0, 2 and 3.
        claim: the sum.
    """
    point = []
    for _ in range(variables):
        values = channel.receive("round", degree)
        r = channel.challenge("round")
        at_zero, at_one, *others = _lagrange(r, degree)
        claim = channel.linear(
            [
                (at_zero - at_one, values[0]),
                (at_one, claim),
                *zip(others, values[1:], strict=True),
            ]
        )
        point.append(r)
    return tuple(point), claim


def _lagrange(r: Element, degree: int) -> list[Element]:
    """Return what the values at 0, 1, .. weigh in the value at `r`."""
    one, two = r - 1, r - 2
    if degree == 2:
        return [one * two * _HALF, -(r * two), r * one * _HALF]
    three = r - 3
    left, right = r * one, two * three
    return [
        -(one * right * _SIXTH),
        r * right * _HALF,
        -(left * three * _HALF),
        left * two * _SIXTH,
    ]
