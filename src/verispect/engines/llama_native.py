"""The part of llama.cpp's C interface that the worker uses, called with `ctypes`.

The native library is the one inside the `xllamacpp` wheel, pinned by version. Its own in-process
server is not used: it always opens an HTTP listener, and it withholds the ids and the
log-probabilities of tokens that end inside a UTF-8 character, so that a generation could not be
recorded exactly. The C interface gives every token, every logit and no listener.

Two structures are passed by value, and their layout is that of the pinned wheel. `load_library`
compares the defaults that the library returns with the ones written here and refuses a library
whose layout differs.

This module refuses to run in the gateway's process: only `llama_worker` imports it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import platform
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_float,
    c_int8,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_void_p,
)
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import EngineError, Reason

SUPPORTED_WHEEL: Final = "2026.10.11549"
"""The `xllamacpp` release whose structure layouts are written below."""

FLASH_ATTENTION_ENABLED: Final = 1
LOAD_MODE_MMAP: Final = 1
LAZY_MODE_OFF: Final = 0
POOLING_NONE: Final = 0
POOLING_MEAN: Final = 1
TYPE_F16: Final = 1
VOCABULARY_TYPE_NONE: Final = 0


class ModelParameters(Structure):
    """`llama_model_params`."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParameters(Structure):
    """`llama_context_params`; `reserved` is a pointer-sized field that stays at its default."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("reserved", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


class TokenData(Structure):
    """`llama_token_data`: 12 bytes, the same as the worker's NumPy record."""

    _fields_ = (("id", c_int32), ("logit", c_float), ("p", c_float))


class TokenDataArray(Structure):
    """`llama_token_data_array`."""

    _fields_ = (
        ("data", POINTER(TokenData)),
        ("size", c_size_t),
        ("selected", c_int64),
        ("sorted", c_bool),
    )


class LogitBias(Structure):
    """`llama_logit_bias`."""

    _fields_ = (("token", c_int32), ("bias", c_float))


class ChainParameters(Structure):
    """`llama_sampler_chain_params`."""

    _fields_ = (("no_perf", c_bool),)


class Sampler(Structure):
    """`llama_sampler`."""

    _fields_ = (("iface", c_void_p), ("ctx", c_void_p))


class GrammarContext(Structure):
    """`llama_sampler_llg`, the state behind a grammar sampler; `matcher` is null on any error.

    `kind` and `data` are `std::string` of the pinned build: one pointer to the characters.
    """

    _fields_ = (
        ("vocab", c_void_p),
        ("kind", c_char_p),
        ("data", c_char_p),
        ("tokenizer", c_void_p),
        ("matcher", c_void_p),
    )


INIT_GRAMMAR: Final = "_Z22llama_sampler_init_llgPK11llama_vocabPKcS3_"
"""`llama_sampler_init_llg`: a sampler over llguidance, which is in the same library."""

LogCallback = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

_MODEL_DEFAULTS: Final = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "lazy_mode": 1,
    "main_gpu": 0,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
    "load_mtp": False,
}
_CONTEXT_DEFAULTS: Final = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_outputs_max_per_seq": 1,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "yarn_ext_factor": -1.0,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "type_k": TYPE_F16,
    "type_v": TYPE_F16,
    "reserved": None,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "samplers": None,
    "n_samplers": 0,
    "ctx_other": None,
}

# Name: (result, arguments). Signatures of the pinned release's `llama.h`.
_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (LogCallback, c_void_p)),
    "llama_print_system_info": (c_char_p, ()),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParameters)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParameters)),
    "llama_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_n_embd_out": (c_int32, (c_void_p,)),
    "llama_model_has_encoder": (c_bool, (c_void_p,)),
    "llama_n_ctx_seq": (c_uint32, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_memory_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_get_embeddings_seq": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_type": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_is_control": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_get_text": (c_char_p, (c_void_p, c_int32)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    "llama_sampler_chain_init": (c_void_p, (ChainParameters,)),
    "llama_sampler_chain_add": (None, (c_void_p, c_void_p)),
    "llama_sampler_init_greedy": (c_void_p, ()),
    "llama_sampler_init_dist": (c_void_p, (c_uint32,)),
    "llama_sampler_init_top_k": (c_void_p, (c_int32,)),
    "llama_sampler_init_top_p": (c_void_p, (c_float, c_size_t)),
    "llama_sampler_init_min_p": (c_void_p, (c_float, c_size_t)),
    "llama_sampler_init_temp": (c_void_p, (c_float,)),
    "llama_sampler_init_penalties": (c_void_p, (c_int32, c_float, c_float, c_float)),
    "llama_sampler_init_logit_bias": (c_void_p, (c_int32, c_int32, POINTER(LogitBias))),
    INIT_GRAMMAR: (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "llama_sampler_apply": (None, (c_void_p, POINTER(TokenDataArray))),
    "llama_sampler_accept": (None, (c_void_p, c_int32)),
    "llama_sampler_free": (None, (c_void_p,)),
}


def library_path() -> Path:
    """Return where the wheel keeps the native library.

    Raises:
        EngineError: `engine-unavailable` where the wheel is missing or another release.
    """
    specification = importlib.util.find_spec("xllamacpp")
    if specification is None or specification.origin is None:
        raise EngineError("xllamacpp is not installed", reason=Reason.ENGINE_UNAVAILABLE)
    if wheel_version() != SUPPORTED_WHEEL:
        raise EngineError(
            f"expected xllamacpp {SUPPORTED_WHEEL}, got {wheel_version()}",
            reason=Reason.ENGINE_UNAVAILABLE,
        )
    return Path(specification.origin).with_name("xllamacpp.abi3.so")


def wheel_version() -> str:
    """Return the version of the installed wheel."""
    return importlib.metadata.version("xllamacpp")


def library_digest() -> bytes:
    """Return the SHA-256 of the native library."""
    with library_path().open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _ignore_log(_level: int, _text: bytes | None, _data: object) -> None:
    """Drop llama.cpp's log lines: some hold pieces of prompts."""


_SILENT: Final = LogCallback(_ignore_log)


def load_library() -> Any:
    """Load the native library, declare its functions and check the layouts.

    Raises:
        EngineError: `engine-unavailable` where the library is not the pinned one.
    """
    library = ctypes.CDLL(str(library_path()))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = list(arguments)
    _check_defaults(library.llama_model_default_params(), _MODEL_DEFAULTS)
    _check_defaults(library.llama_context_default_params(), _CONTEXT_DEFAULTS)
    library.llama_log_set(_SILENT, None)
    library.llama_backend_init()
    return library


def _check_defaults(structure: Structure, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if getattr(structure, name) != value:
            raise EngineError(
                f"the layout of the native library differs at {name}",
                reason=Reason.ENGINE_UNAVAILABLE,
            )


def kernel_class(system_information: str) -> str:
    """Name the kernels that the library was built with, for example `x86-64-avx2`."""
    machine = platform.machine().replace("_", "-")
    flags = {
        name.strip()
        for part in system_information.replace("CPU :", "").split("|")
        for name, _, value in [part.partition("=")]
        if value.strip() == "1"
    }
    for flag, name in (
        ("AVX512", "avx512"),
        ("AVX2", "avx2"),
        ("AVX", "avx"),
        ("SVE", "sve"),
        ("DOTPROD", "dotprod"),
        ("NEON", "neon"),
    ):
        if flag in flags:
            return f"{machine}-{name}"
    return f"{machine}-generic"
