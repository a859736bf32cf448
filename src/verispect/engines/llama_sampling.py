"""The sampler chain of one generation, and the log-probabilities before it.

The chain is always: logit bias, presence and frequency penalty over the *generated* tokens,
top-k, top-p, min-p, temperature, draw. A sampler at its neutral value is left out. Temperature 0
takes the most likely token after bias and penalties. Every other sampler of llama.cpp (repeat
penalty, typical-p, DRY, XTC, mirostat, top-n-sigma, adaptive-p, dynamic temperature) is absent,
not merely neutral.

A grammar is applied as llama.cpp's own `common` layer does: the chain draws first; only where the
grammar rejects that token is the draw repeated among the tokens that it allows. Grammars are Lark
in llguidance's dialect, JSON Schema included.

This module refuses to run in the gateway's process: only `llama_worker` imports it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from verispect.engines import llama_native as native
from verispect.engines.llama_parameters import LOGPROB_DECIMALS

_GRAMMAR_KIND: Final = b"lark"
_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class GrammarError(Exception):
    """The grammar cannot be compiled, or it failed while it was in use."""


class Grammar:
    """A compiled Lark grammar (llguidance's dialect) and how far the output has gone in it.

    Raises:
        GrammarError: where llguidance refuses it.
    """

    def __init__(self, library: Any, vocabulary: int, text: str) -> None:
        self._library = library
        create = getattr(library, native.INIT_GRAMMAR)
        self._sampler = int(create(vocabulary, _GRAMMAR_KIND, text.encode()) or 0)
        try:
            self._check()
        except GrammarError:
            self.close()
            raise

    def _check(self) -> None:
        # llama.cpp's sampler drops its matcher on an error and then allows every token: a
        # constraint that was asked for must not vanish.
        if not self._sampler:
            raise GrammarError
        context = native.Sampler.from_address(self._sampler).ctx
        state = native.GrammarContext.from_address(context)
        if state.kind != _GRAMMAR_KIND or not state.matcher:
            raise GrammarError

    def apply(self, array: native.TokenDataArray) -> None:
        """Set the logits of all tokens that may not follow to minus infinity."""
        self._library.llama_sampler_apply(self._sampler, ctypes.byref(array))
        self._check()

    def check_start(self) -> None:
        """Compute what may come first: some grammars compile and fail only there."""
        single = native.TokenData(0, 0.0, 0.0)
        self.apply(native.TokenDataArray(ctypes.pointer(single), 1, -1, False))

    def accept(self, token: int) -> None:
        """Go one token further."""
        self._library.llama_sampler_accept(self._sampler, token)
        self._check()

    def close(self) -> None:
        """Free the native sampler."""
        if self._sampler:
            self._library.llama_sampler_free(self._sampler)
        self._sampler = 0


class Chooser:
    """Chooses the tokens of one generation; `close` frees the native samplers."""

    def __init__(
        self, library: Any, vocabulary: int, settings: Mapping[str, Any], grammar: str | None
    ) -> None:
        self._library = library
        self._size = int(library.llama_vocab_n_tokens(vocabulary))
        self._candidates = np.zeros(self._size, dtype=_CANDIDATE)
        self._ids = np.arange(self._size, dtype=np.int32)
        self._grammar = Grammar(library, vocabulary, grammar) if grammar is not None else None
        self._chain = int(library.llama_sampler_chain_init(native.ChainParameters(True)))
        for sampler in self._samplers(settings):
            library.llama_sampler_chain_add(self._chain, sampler)

    def _samplers(self, settings: Mapping[str, Any]) -> list[int]:
        library = self._library
        chain = []
        bias = settings["logit_bias"]
        if bias:
            entries = (native.LogitBias * len(bias))(
                *[native.LogitBias(int(token), float(value)) for token, value in bias]
            )
            chain.append(library.llama_sampler_init_logit_bias(self._size, len(bias), entries))
        presence, frequency = settings["presence_penalty"], settings["frequency_penalty"]
        if presence or frequency:
            window = settings["penalty_window"]
            chain.append(library.llama_sampler_init_penalties(window, 1.0, frequency, presence))
        if settings["temperature"] == 0:
            return [*chain, library.llama_sampler_init_greedy()]
        if settings["top_k"] > 0:
            chain.append(library.llama_sampler_init_top_k(settings["top_k"]))
        if settings["top_p"] < 1:
            chain.append(library.llama_sampler_init_top_p(settings["top_p"], 1))
        if settings["min_p"] > 0:
            chain.append(library.llama_sampler_init_min_p(settings["min_p"], 1))
        chain.append(library.llama_sampler_init_temp(settings["temperature"]))
        chain.append(library.llama_sampler_init_dist(settings["seed"]))
        return chain

    def choose(self, logits: np.ndarray[Any, Any]) -> int:
        """Draw the next token and remember it."""
        token = self._take(logits)
        self._remember(token)
        return token

    def follow(self, logits: np.ndarray[Any, Any], token: int | None) -> int:
        """Draw as `choose` does, and remember `token` instead; `None` remembers nothing."""
        chosen = self._take(logits)
        if token is not None:
            self._remember(token)
        return chosen

    def _take(self, logits: np.ndarray[Any, Any]) -> int:
        token = self._draw(logits, constrained=False)
        if self._grammar and not self._allowed(self._grammar, token, float(logits[token])):
            token = self._draw(logits, constrained=True)
        return token

    def _remember(self, token: int) -> None:
        self._library.llama_sampler_accept(self._chain, token)
        if self._grammar:
            self._grammar.accept(token)

    def _draw(self, logits: np.ndarray[Any, Any], *, constrained: bool) -> int:
        candidates = self._candidates
        candidates["id"] = self._ids
        candidates["logit"] = logits
        candidates["p"] = 0
        array = native.TokenDataArray(
            candidates.ctypes.data_as(ctypes.POINTER(native.TokenData)), self._size, -1, False
        )
        if constrained and self._grammar:
            self._grammar.apply(array)
        self._library.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allowed(self, grammar: Grammar, token: int, logit: float) -> bool:
        single = native.TokenData(token, logit, 0.0)
        array = native.TokenDataArray(ctypes.pointer(single), 1, -1, False)
        grammar.apply(array)
        return bool(np.isfinite(array.data[0].logit))

    def close(self) -> None:
        """Free the native samplers."""
        if self._chain:
            self._library.llama_sampler_free(self._chain)
        self._chain = 0
        if self._grammar:
            self._grammar.close()


def log_probabilities(
    logits: np.ndarray[Any, Any], token: int, count: int
) -> tuple[float, list[tuple[int, float]]]:
    """Return the natural log-probability of `token`, and of the `count` most likely tokens.

    Both are of the model's own distribution, before bias, penalties, temperature and grammar.
    Ties are ordered by token id.
    """
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    best: list[tuple[int, float]] = []
    if count:
        least = np.partition(values, -count)[-count]
        likely = np.flatnonzero(values >= least)
        order = sorted(likely.tolist(), key=lambda index: (-values[index], index))[:count]
        best = [(index, round(float(values[index]), LOGPROB_DECIMALS)) for index in order]
    return round(float(values[token]), LOGPROB_DECIMALS), best


def standing(logits: np.ndarray[Any, Any], tokens: Sequence[int]) -> tuple[float, int, float]:
    """Return log-probability and rank of the likeliest of `tokens`, and the best token's.

    Natural logarithms of the model's own distribution, as in `log_probabilities`. The rank counts
    the tokens that are strictly more likely, from 1.
    """
    values = logits.astype(np.float64)
    best = float(values.max())
    total = best + float(np.log(np.exp(values - best).sum()))
    own = max((float(values[token]) for token in tokens), default=float(values.min()))
    rank = int((values > own).sum()) + 1
    return round(own - total, LOGPROB_DECIMALS), rank, round(best - total, LOGPROB_DECIMALS)
