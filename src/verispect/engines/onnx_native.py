"""What surrounds ONNX Runtime's native library: loading, naming and hashing it, freeing memory.

The library dispatches to other kernels on other processors, so its digest alone does not say what
ran; `kernel_class` names the rest. This module refuses to run models.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import EngineError, Reason

SILENT: Final = 4
"""ONNX Runtime's severity `fatal`: its messages can hold input values and are never logged."""


def kernel_class() -> str:
    """Name the instruction set that ONNX Runtime will pick its kernels for on this processor.

    It dispatches when it runs, so the same library gives other bits on another class.
    """
    machine = platform.machine().lower().replace("amd64", "x86-64").replace("x86_64", "x86-64")
    flags = _cpu_flags()
    if machine == "x86-64":
        for name, needed in (
            ("amx", {"amx_tile", "amx_int8", "avx512f"}),
            ("avx512-vnni", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
            ("avx512", {"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
            ("avx2-vnni", {"avx2", "fma", "avx_vnni"}),
            ("avx2", {"avx2", "fma"}),
            ("avx", {"avx"}),
        ):
            if needed <= flags:
                return f"{machine}-{name}"
        return f"{machine}-sse2"
    if machine in ("aarch64", "arm64"):
        for name, feature in (("sve", "sve"), ("i8mm", "i8mm"), ("dotprod", "asimddp")):
            if feature in flags:
                return f"aarch64-{name}"
        return "aarch64-neon"
    return f"{machine}-generic"


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def import_runtime() -> Any:
    """Import ONNX Runtime with its telemetry off.

    Since 1.32 the official Linux wheel reports sessions and a device identifier to its maker, and
    keeps them on disk. Only the variable, set before the library is loaded, stops all of it.

    Raises:
        EngineError: `engine-unavailable` where it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "onnxruntime is not installed; install verispect[onnx]",
            reason=Reason.ENGINE_UNAVAILABLE,
        ) from error
    # Where other code imported it first, this at least stops all events but the first.
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(SILENT)
    return onnxruntime


_digests: dict[str, Digest] = {}


def library_digest(runtime: Any) -> Digest:
    """Hash the native library that this process has loaded, once."""
    path = str(runtime.capi.onnxruntime_pybind11_state.__file__)
    if path not in _digests:
        with Path(path).open("rb") as library:
            _digests[path] = Digest(hashlib.file_digest(library, "sha256").digest())
    return _digests[path]


def trim_memory() -> None:
    """Give freed memory back to the system, where the C library can."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent from musl
        if trim is not None:
            trim(0)
