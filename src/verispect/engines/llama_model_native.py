"""One loaded GGUF model in the worker: its contexts, its vocabulary, its embeddings.

This module refuses to run in the gateway's process: only `llama_worker` imports it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from verispect.engines import llama_native as native

SEQUENCE_OUTPUTS: Final = 32
"""Rows of logits one sequence may ask for in a batch (`SCORE_BATCH`)."""

_PIECE_BYTES: Final = 1024


class LoadError(Exception):
    """llama.cpp cannot load the model."""


class NativeModel:
    """A model and its context.

    Args:
        path: the GGUF file, possibly `/proc/self/fd/N`.
        settings: `context_tokens`, `batch_tokens`, `sequences`, `threads`.
    """

    def __init__(self, path: str, settings: Mapping[str, Any]) -> None:
        self.library = native.load_library()
        self._settings = settings
        parameters = self.library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.load_mode = native.LOAD_MODE_MMAP
        parameters.lazy_mode = native.LAZY_MODE_OFF
        self._model = self.library.llama_model_load_from_file(path.encode(), parameters)
        if not self._model:
            raise LoadError
        self.vocabulary = self.library.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(self.library.llama_vocab_n_tokens(self.vocabulary))
        if self.vocabulary_size < 1 or self.library.llama_model_has_encoder(self._model):
            raise LoadError
        trained = int(self.library.llama_model_n_ctx_train(self._model))
        self.context_tokens = min(settings["context_tokens"], trained)
        self.context = self._new_context(
            tokens=self.context_tokens * settings["sequences"],
            batch=settings["batch_tokens"],
            sequences=settings["sequences"],
            pooling=native.POOLING_NONE,
        )
        self._embedding_context: int | None = None
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self._ending_tokens: tuple[int, ...] | None = None

    def _new_context(self, *, tokens: int, batch: int, sequences: int, pooling: int) -> int:
        pooled = pooling != native.POOLING_NONE
        parameters = self.library.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_batch = parameters.n_ubatch = batch
        parameters.n_seq_max = sequences
        parameters.n_outputs_max_per_seq = batch if pooled else min(batch, SEQUENCE_OUTPUTS)
        parameters.n_threads = parameters.n_threads_batch = self._settings["threads"]
        parameters.flash_attn_type = native.FLASH_ATTENTION_ENABLED
        parameters.type_k = parameters.type_v = native.TYPE_F16
        parameters.pooling_type = pooling
        parameters.embeddings = pooled
        context = self.library.llama_init_from_model(self._model, parameters)
        if not context:
            raise LoadError
        return int(context)

    def describe(self) -> dict[str, Any]:
        """Return what the parent needs to know of the engine and the model."""
        library = self.library
        information = library.llama_print_system_info().decode()
        return {
            "version": native.wheel_version(),
            "library_digest": native.library_digest().hex(),
            "kernel_class": native.kernel_class(information),
            "vocabulary_size": self.vocabulary_size,
            "context_tokens": int(library.llama_n_ctx_seq(self.context)),
            "bos": self._special_text(library.llama_vocab_bos(self.vocabulary)),
            "eos": self._special_text(library.llama_vocab_eos(self.vocabulary)),
            "control_texts": [
                self._special_text(token)
                for token in range(self.vocabulary_size)
                if self._is_control(token)
            ],
        }

    def _special_text(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = self.library.llama_vocab_get_text(self.vocabulary, token)
        return text.decode("utf-8", "replace")

    def ends_generation(self, token: int) -> bool:
        """Whether the token ends a generation."""
        return bool(self.library.llama_vocab_is_eog(self.vocabulary, token))

    @property
    def ending_tokens(self) -> tuple[int, ...]:
        """Every token that ends a generation."""
        if self._ending_tokens is None:
            self._ending_tokens = tuple(filter(self.ends_generation, range(self.vocabulary_size)))
        return self._ending_tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the exact bytes of a token; a control token's only where `special`."""
        found = self._pieces.get((token, special))
        if found is None:
            buffer = ctypes.create_string_buffer(_PIECE_BYTES)
            length = self.library.llama_token_to_piece(
                self.vocabulary, token, buffer, _PIECE_BYTES, 0, special
            )
            found = buffer.raw[: max(length, 0)]
            self._pieces[token, special] = found
        return found

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return token ids; control tokens written in the text count only where `special`."""
        data = text.encode()
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self.library.llama_tokenize(
            self.vocabulary, data, len(data), tokens, room, False, special
        )
        if count < 0:
            raise ValueError
        return list(tokens[:count])

    def tokenize_segments(self, segments: Sequence[tuple[str, bool]], *, begin: bool) -> list[int]:
        """Tokenise template text and message content, keeping control tokens out of the content.

        The joined text is tokenised as a whole, as the model was trained. Only where that would
        read a control token out of message content are the segments tokenised apart.

        Args:
            segments: `(text, whether it is the template's own)`.
            begin: put the beginning-of-sequence token in front where the model wants one.
        """
        whole = self.tokenize("".join(text for text, _ in segments), special=True)
        apart = [
            token for text, own in segments for token in self.tokenize(text, special=own) if text
        ]
        own_control = [token for token in apart if self._is_control(token)]
        ids = whole if [t for t in whole if self._is_control(t)] == own_control else apart
        bos = int(self.library.llama_vocab_bos(self.vocabulary))
        wanted = begin and self.library.llama_vocab_get_add_bos(self.vocabulary) and bos >= 0
        return [bos, *ids] if wanted and ids[:1] != [bos] else ids

    def _is_control(self, token: int) -> bool:
        return bool(self.library.llama_vocab_is_control(self.vocabulary, token))

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """Return the L2-normalised mean of the last layer's states over `tokens`."""
        size = self.context_tokens
        if self._embedding_context is None:
            # Mean pooling needs the whole input in one physical batch.
            self._embedding_context = self._new_context(
                tokens=size, batch=size, sequences=1, pooling=native.POOLING_MEAN
            )
        context = self._embedding_context
        self.library.llama_memory_clear(self.library.llama_get_memory(context), True)
        count = len(tokens)
        integer = ctypes.c_int32
        sequence = (integer * 1)(0)
        pointer = ctypes.cast(sequence, ctypes.POINTER(integer))
        batch = native.Batch(
            count,
            (integer * count)(*tokens),
            None,
            (integer * count)(*range(count)),
            (integer * count)(*[1] * count),
            (ctypes.POINTER(integer) * count)(*[pointer] * count),
            (ctypes.c_int8 * count)(*[1] * count),
        )
        if self.library.llama_decode(context, batch) != 0:
            raise LoadError
        width = int(self.library.llama_model_n_embd_out(self._model))
        row = self.library.llama_get_embeddings_seq(context, 0)
        vector = np.ctypeslib.as_array(row, (width,)).astype(np.float64)
        norm = float(np.sqrt((vector * vector).sum()))
        return [float(value) for value in (vector / norm if norm else vector)]
