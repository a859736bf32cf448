"""Teacher forcing, as every engine that can do it says it: how a model stands to given tokens.

The model is shown a prompt and an answer in one pass, and says of each answer token how likely it
was, which rank it had, and which token the sampler would have taken there from the same seed. This
module refuses to judge what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from verispect.engines.interface import Sampling


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One answer token under the model, given the prompt and the answer before it."""

    token_id: int
    logprob: float
    """Nats, of the model's own distribution: before bias, penalties, temperature and grammar."""
    rank: int
    """1 for the most likely token."""
    best_logprob: float
    """Of the most likely token."""
    chosen: int | None = None
    """What the sampler took here; `None` where no sampling was given."""

    @property
    def gap(self) -> float:
        """How much less likely than the best token it is, in nats; never negative."""
        return max(0.0, self.best_logprob - self.logprob)

    @property
    def agrees(self) -> bool:
        """Whether the sampler took this very token."""
        return self.chosen == self.token_id


@dataclass(frozen=True, slots=True)
class EndingScore:
    """The end of the answer: the likeliest of the tokens that end a generation."""

    logprob: float
    rank: int
    best_logprob: float
    chosen: bool | None = None
    """Whether the sampler ended here; `None` where no sampling was given."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """An answer under a model."""

    tokens: tuple[TokenScore, ...]
    given: int
    """Tokens that the answer has."""
    ending: EndingScore | None
    """`None` where the answer was truncated."""

    @property
    def truncated(self) -> bool:
        """The context held only a beginning of the answer; the rest was not scored."""
        return len(self.tokens) < self.given


class ScoringEngine(Protocol):
    """A language model that can be shown an answer."""

    @property
    def context_tokens(self) -> int:
        """How many tokens prompt and answer may have together."""
        ...

    async def tokenize_answer(self, text: str) -> list[int]:
        """Return the tokens of an answer's text; control tokens are not read out of it.

        Raises:
            EngineError: when the engine fails.
        """
        ...

    async def token_pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes that each token puts into an answer's text.

        Raises:
            EngineError: when the engine fails.
        """
        ...

    async def force(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        *,
        sampling: Sampling | None = None,
        grammar: str | None = None,
    ) -> TokenScores:
        """Score an answer in one pass.

        Args:
            prompt: token ids, at least one.
            answer: token ids; what does not fit into the context is not scored.
            sampling: resolved settings; where given, the sampler is run beside the pass.
            grammar: of the sampler.

        Raises:
            RequestError: for an empty prompt, one beyond the context, or tokens that do not exist.
            EngineError: when the engine fails, or the answer breaks the grammar.
        """
        ...
