"""The prover's side of the conversation: messages, challenges, and what hides them.

In mode succinct a message is sent as it is. In mode zero-knowledge it is sent under masks that were
committed before (spec/proof.md section 10): every value is then a linear form in the masks, and
whatever a verifier would check is collected as such a form. `Form` holds the true value and the
coefficients of the masks; constants are the verifier's to know.

This module refuses to check anything: an untrue statement gives a proof that a verifier refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from verispect.proof.field import ONE, ZERO, Array, Element, to_bytes
from verispect.proof.transcript import Transcript

ENTRIES_PER_PRODUCT = 6


@dataclass(slots=True)
class Form:
    """A value, and the masks that stand behind what the verifier knows of it."""

    value: Element
    masks: dict[int, Element] = field(default_factory=dict)


def combine(terms: Iterable[tuple[Element, Form]]) -> Form:
    """Return the sum of factors times forms."""
    value = ZERO
    masks: dict[int, Element] = {}
    for factor, form in terms:
        value = value + factor * form.value
        for number, coefficient in form.masks.items():
            added = factor * coefficient
            known = masks.get(number)
            masks[number] = added if known is None else known + added
    return Form(value, masks)


@dataclass(frozen=True, slots=True)
class Product:
    """The numbers of one product's masks, from the first of six."""

    first: int


class Channel:
    """One conversation.

    Args:
        transcript: with everything of section 5 absorbed.
        masks: the random elements, messages' first and then six for every product; None in mode
            succinct.
        message_count: how many of them are messages' own.
    """

    def __init__(
        self,
        transcript: Transcript,
        masks: Sequence[Element] | None = None,
        message_count: int = 0,
    ) -> None:
        self.transcript = transcript
        self.hides = masks is not None
        self.masks: Sequence[Element] = masks or ()
        self.sent: list[bytes] = []
        self.equations: list[dict[int, Element]] = []
        self.products: list[Product] = []
        self._next_mask = 0
        self._first_entry = message_count

    def challenge(self, label: str) -> Element:
        """Draw one challenge."""
        return self.transcript.challenge(label)

    def challenges(self, label: str, count: int) -> list[Element]:
        """Draw a vector of challenges."""
        return self.transcript.challenges(label, count)

    def send(self, label: str, values: Sequence[Element], factor: Element = ONE) -> int:
        """Send a message, masked where the mode says so, and return its first mask's number."""
        first = self._next_mask
        if self.hides:
            self._next_mask += len(values)
            masks = self.masks[first : self._next_mask]
            values = [value + factor * mask for value, mask in zip(values, masks, strict=True)]
        self.send_plain(label, values)
        return first

    def send_plain(self, label: str, values: Sequence[Element]) -> None:
        """Send a message as it is: it hides by itself, or nothing need be hidden."""
        data = b"".join(value.to_bytes() for value in values)
        self.sent.append(data)
        self.transcript.absorb(label, data)

    def send_array(self, label: str, values: Array) -> None:
        """Send an array of elements as it is."""
        data = to_bytes(values)
        self.sent.append(data)
        self.transcript.absorb(label, data)

    @property
    def messages(self) -> bytes:
        """Everything sent so far."""
        return b"".join(self.sent)

    def form(self, value: Element, number: int) -> Form:
        """Return the form of a value that was sent under the mask with `number`."""
        return Form(value, {number: -ONE}) if self.hides else Form(value)

    def exchange(self, label: str, values: Sequence[Element]) -> list[Form]:
        """Send a message and return the forms of its values."""
        first = self.send(label, values)
        return [self.form(value, first + i) for i, value in enumerate(values)]

    def exchange_padded(self, label: str, values: Sequence[Element], factor: Element) -> list[Form]:
        """Send a message whose masks count `factor` times, and return the forms of its values."""
        first = self.send(label, values, factor)
        if not self.hides:
            return [Form(value) for value in values]
        return [Form(value, {first + i: -factor}) for i, value in enumerate(values)]

    def require(self, form: Form) -> None:
        """Collect the equation that a form is zero."""
        if self.hides:
            self.equations.append(form.masks)

    def product(self, x: Form, y: Form) -> Form:
        """Return the form of a product of two hidden values (section 10.3)."""
        if not self.hides:
            return Form(x.value * y.value)
        first = self._first_entry + ENTRIES_PER_PRODUCT * len(self.products)
        self.products.append(Product(first))
        a, b = self.masks[first], self.masks[first + 1]
        shown = x.value + a, y.value + b
        self.send_plain("product", shown)
        for form, number in ((x, first), (y, first + 1)):
            self.require(combine([(ONE, form), (ONE, Form(ZERO, {number: ONE}))]))
        return Form(x.value * y.value, {first + 1: -shown[0], first: -shown[1], first + 2: ONE})

    def require_inverse(self, form: Form) -> None:
        """Show that a hidden value is not zero; in mode succinct anyone sees it."""
        if not self.hides:
            return
        (inverse,) = self.exchange("inverse", [form.value.inverse()])
        self.require(self.product(form, inverse))

    def sacrifice(self) -> None:
        """Show that all products' masks are products (section 10.3)."""
        if not self.hides:
            return
        e = self.challenge("sacrifice")
        if not self.products:
            return
        shown: list[Element] = []
        for product in self.products:
            a, b, _, a2, b2, _ = self.masks[product.first : product.first + ENTRIES_PER_PRODUCT]
            shown += [e * a - a2, b - b2]
        self.send_plain("sacrifice", shown)
        for i, product in enumerate(self.products):
            d, f = shown[2 * i], shown[2 * i + 1]
            at = product.first
            self.equations.append({at: e, at + 3: -ONE})
            self.equations.append({at + 1: ONE, at + 4: -ONE})
            self.equations.append({at + 2: e, at + 5: -ONE, at + 3: -f, at + 4: -d})


class Claims:
    """The claim of a sumcheck as it goes through the rounds.

    A round's message gives the polynomial at 0 and from 2 on; its value at 1 is the claim minus the
    one at 0, so that the next claim is linear in this claim and the message.
    """

    def __init__(self, channel: Channel, claim: Form, degree: int) -> None:
        self.value = claim.value
        self._channel = channel
        self._claim = claim
        self._degree = degree
        self._rounds: list[tuple[int, list[Element], Element]] = []

    def round(self, values: Sequence[Element]) -> Element:
        """Send a round's values, draw its challenge and move the claim on."""
        channel = self._channel
        first = channel.send("round", values)
        r = channel.challenge("round")
        weights = _lagrange_cubic(r) if self._degree == 3 else _lagrange_square(r)
        value = weights[0] * values[0] + weights[1] * (self.value - values[0])
        for weight, sent in zip(weights[2:], values[1:], strict=True):
            value = value + weight * sent
        self.value = value
        if channel.hides:
            own = [weights[0] - weights[1], *weights[2:]]
            self._rounds.append((first, own, weights[1]))
        return r

    def form(self) -> Form:
        """Return the final claim."""
        masks: dict[int, Element] = {}
        carry = ONE
        for first, weights, one in reversed(self._rounds):
            for i, weight in enumerate(weights):
                masks[first + i] = -(carry * weight)
            carry = carry * one
        rest = combine([(carry, self._claim)])
        return Form(self.value, masks | rest.masks)


_HALF = Element(2).inverse()
_SIXTH = Element(6).inverse()


def _lagrange_square(r: Element) -> list[Element]:
    """Return the polynomials at `r` that are 1 at one of 0, 1, 2 and 0 at the others."""
    s, t = r - 1, r - 2
    return [s * t * _HALF, -(r * t), r * s * _HALF]


def _lagrange_cubic(r: Element) -> list[Element]:
    """Return the polynomials at `r` that are 1 at one of 0, 1, 2, 3 and 0 at the others."""
    s, t, u = r - 1, r - 2, r - 3
    rs, tu = r * s, t * u
    return [-(s * tu * _SIXTH), r * tu * _HALF, -(rs * u * _HALF), rs * t * _SIXTH]
