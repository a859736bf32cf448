"""How a lane of llama.cpp runs, and how that stands in the engine identity.

This module refuses to hold a setting that changes output and is not in the identity.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from verispect.engines.interface import Lane
from verispect.engines.llama_parameters import CONSTANT_CHAIN


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """How a lane runs; every field that can change output is in the engine identity."""

    lane: Lane = Lane.DETERMINISTIC
    context_tokens: int = 2048
    """Prompt and answer together, of one request."""
    batch_tokens: int = 256
    """Logical and physical batch size; pinned, because some quantisations change bits with it."""
    threads: int = max(1, (os.cpu_count() or 2) - 1)
    parallel: int = 4
    """Requests computed together; always 1 in the deterministic lane."""
    queue_limit: int = 64
    """Requests that may wait beside those computed."""

    @property
    def sequences(self) -> int:
        """Requests computed together in this lane."""
        return 1 if self.lane is Lane.DETERMINISTIC else self.parallel

    def settings(self, context_tokens: int) -> dict[str, Any]:
        """Return what stands in the engine identity, for a context that is really so long."""
        return {
            "lane": self.lane.value,
            "context_tokens": context_tokens,
            "batch_tokens": self.batch_tokens,
            "micro_batch_tokens": self.batch_tokens,
            "sequences": self.sequences,
            "continuous_batching": self.sequences > 1,
            "prompt_cache": self.lane is Lane.THROUGHPUT,
            "threads": self.threads,
            "flash_attention": True,
            "kv_type": "f16",
            "weight_repacking": True,
            "gpu_layers": 0,
            "embedding_pooling": "mean",
            **CONSTANT_CHAIN,
        }
