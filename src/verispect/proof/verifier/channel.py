"""What is received, drawn and required (spec/proof.md sections 5 and 10.2 to 10.4).

The protocol is written once, over a `Channel`. In mode succinct a received value is an `Element`
and every requirement is decided where it stands. In mode zero-knowledge it is a `Form`, linear in
the committed masks; requirements are collected, and section 10.5 decides all of them at once.

This module refuses messages that end too early or have an element that is not canonical, and, in
mode succinct, whatever is required and not so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from verispect.core.errors import MalformedError, Reason, VerificationError
from verispect.proof.field import BASE_BYTES, ELEMENT_BYTES, MODULUS, ONE, ZERO, Element
from verispect.proof.transcript import Transcript

V = TypeVar("V")


def refuse(what: str) -> VerificationError:
    """Return the error of a check that failed."""
    return VerificationError(what, reason=Reason.PROOF_INVALID)


@dataclass(frozen=True, slots=True)
class Form:
    """A hidden value: a constant plus a linear combination of masks, by their numbers."""

    constant: Element
    masks: dict[int, Element] = field(default_factory=dict)


class Messages:
    """The elements that the prover sent, read once and in order, every one absorbed."""

    def __init__(self, data: bytes, transcript: Transcript) -> None:
        self._data = data
        self._offset = 0
        self._transcript = transcript

    def octets(self, label: str, count: int) -> bytes:
        """Read one message of `count` elements, and absorb it."""
        end = self._offset + ELEMENT_BYTES * count
        message = self._data[self._offset : end]
        if len(message) != ELEMENT_BYTES * count:
            raise MalformedError("messages end too early", reason=Reason.MALFORMED_PROOF)
        self._offset = end
        self._transcript.absorb(label, message)
        return message

    def read(self, label: str, count: int) -> list[Element]:
        """Read one message as elements."""
        message = self.octets(label, count)
        words = [
            int.from_bytes(message[i : i + BASE_BYTES], "little")
            for i in range(0, len(message), BASE_BYTES)
        ]
        if words and max(words) >= MODULUS:
            raise MalformedError("a field element is not canonical", reason=Reason.MALFORMED_PROOF)
        return [Element(a, b) for a, b in zip(words[::2], words[1::2], strict=True)]

    def require_end(self) -> None:
        """Refuse messages beyond the last one."""
        if self._offset != len(self._data):
            raise MalformedError("messages are left over", reason=Reason.MALFORMED_PROOF)


class Channel(ABC, Generic[V]):
    """The verifier's side of sections 7 to 9."""

    def __init__(self, transcript: Transcript, messages: Messages) -> None:
        self.transcript = transcript
        self.messages = messages

    def challenge(self, label: str) -> Element:
        """Draw an element."""
        return self.transcript.challenge(label)

    def challenges(self, label: str, count: int) -> tuple[Element, ...]:
        """Draw a point."""
        return tuple(self.transcript.challenges(label, count))

    @abstractmethod
    def receive(self, label: str, count: int) -> list[V]:
        """Take the next message, of `count` values."""

    hides: bool
    """Whether values are sent under masks."""

    @abstractmethod
    def receive_padded(
        self, label: str, count: int, factor: Element
    ) -> tuple[list[V], list[Element]]:
        """Take a message whose masks count `factor` times; return its values and what was sent."""

    @abstractmethod
    def linear(self, terms: Sequence[tuple[Element, V]], constant: Element = ZERO) -> V:
        """Return `constant` plus the sum of coefficients times values."""

    @abstractmethod
    def product(self, x: V, y: V) -> V:
        """Return the product of two values."""

    @abstractmethod
    def require_zero(self, value: V, what: str) -> None:
        """Refuse the proof, now or in the end, unless `value` is zero."""

    @abstractmethod
    def require_nonzero(self, value: V, what: str) -> None:
        """Refuse the proof, now or in the end, if `value` is zero."""


class DecidingChannel(Channel[Element]):
    """Mode succinct: a value is what was sent, and a requirement is decided at once."""

    hides = False

    def receive(self, label: str, count: int) -> list[Element]:
        """Take the next message, of `count` values."""
        return self.messages.read(label, count)

    def receive_padded(
        self,
        label: str,
        count: int,
        factor: Element,  # noqa: ARG002
    ) -> tuple[list[Element], list[Element]]:
        """Take a message; nothing masks it."""
        sent = self.messages.read(label, count)
        return sent, sent

    def linear(self, terms: Sequence[tuple[Element, Element]], constant: Element = ZERO) -> Element:
        """Return `constant` plus the sum of coefficients times values."""
        for coefficient, value in terms:
            constant = constant + coefficient * value
        return constant

    def product(self, x: Element, y: Element) -> Element:
        """Return the product of two values."""
        return x * y

    def require_zero(self, value: Element, what: str) -> None:
        """Refuse the proof unless `value` is zero."""
        if value:
            raise refuse(what)

    def require_nonzero(self, value: Element, what: str) -> None:
        """Refuse the proof if `value` is zero."""
        if not value:
            raise refuse(what)


@dataclass(frozen=True, slots=True)
class Triples:
    """Where the committed entries `a, b, c, a', b', c'` of a product stand among the masks."""

    first: int


class CollectingChannel(Channel[Form]):
    """Mode zero-knowledge: a value is hidden by its mask, and requirements are collected.

    Args:
        transcript: shared with the messages.
        messages: what the prover sent.
        masked: how many masked elements sections 7 to 9 have; the products' entries follow them.
    """

    hides = True

    def __init__(self, transcript: Transcript, messages: Messages, *, masked: int) -> None:
        super().__init__(transcript, messages)
        self.equations: list[Form] = []
        self._next_mask = 0
        self._masked = masked
        self._products: list[Triples] = []

    def receive(self, label: str, count: int) -> list[Form]:
        """Take the next message: each value is what was sent, minus its mask."""
        return self.receive_padded(label, count, ONE)[0]

    def receive_padded(
        self, label: str, count: int, factor: Element
    ) -> tuple[list[Form], list[Element]]:
        """Take a message whose masks count `factor` times; return its values and what was sent."""
        sent = self.messages.read(label, count)
        first = self._next_mask
        self._next_mask += count
        return [Form(value, {first + i: -factor}) for i, value in enumerate(sent)], sent

    def linear(self, terms: Sequence[tuple[Element, Form]], constant: Element = ZERO) -> Form:
        """Return `constant` plus the sum of coefficients times values."""
        masks: dict[int, Element] = {}
        for coefficient, value in terms:
            constant = constant + coefficient * value.constant
            for mask, weight in value.masks.items():
                share = coefficient * weight
                known = masks.get(mask)
                masks[mask] = share if known is None else known + share
        return Form(constant, masks)

    def product(self, x: Form, y: Form) -> Form:
        """Return the product by the committed triple (section 10.3)."""
        triple = Triples(self._masked + 6 * len(self._products))
        self._products.append(triple)
        a, b, c = (Form(ZERO, {triple.first + i: ONE}) for i in range(3))
        left, right = self.messages.read("product", 2)
        self.equations.append(self.linear([(ONE, x), (ONE, a)], -left))
        self.equations.append(self.linear([(ONE, y), (ONE, b)], -right))
        return self.linear([(-left, b), (-right, a), (ONE, c)], left * right)

    def require_zero(self, value: Form, what: str) -> None:  # noqa: ARG002
        """Collect the equation; `what` cannot be told apart from the others any more."""
        self.equations.append(value)

    def require_nonzero(self, value: Form, what: str) -> None:  # noqa: ARG002
        """Collect that `value` times a further hidden message is one."""
        (inverse,) = self.receive("inverse", 1)
        self.equations.append(self.linear([(ONE, self.product(value, inverse))], -ONE))

    def sacrifice(self) -> None:
        """Hold the committed triples to be products, at the price of one more each (10.3)."""
        e = self.challenge("sacrifice")
        if not self._products:
            return
        sent = self.messages.read("sacrifice", 2 * len(self._products))
        for i, triple in enumerate(self._products):
            d, f = sent[2 * i : 2 * i + 2]
            a, b, c, a2, b2, c2 = (triple.first + entry for entry in range(6))
            self.equations.append(Form(-d, {a: e, a2: -ONE}))
            self.equations.append(Form(-f, {b: ONE, b2: -ONE}))
            self.equations.append(Form(-(d * f), {c: e, c2: -ONE, a2: -f, b2: -d}))

    def require_counts(self, products: int) -> None:
        """Hold the conversation to the numbers of masks that the commitment was sized for.

        Raises:
            RuntimeError: the shape and the protocol disagree, which is a mistake of this software.
        """
        if (self._next_mask, len(self._products)) != (self._masked, products):
            raise RuntimeError("the proof's shape and its protocol disagree")
