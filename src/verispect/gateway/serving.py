"""Which engine serves what: models from the registry, loaded once, in the lane asked for.

A name that is not registered is an error, never another model. Bytes are hashed at load and what
was hashed is what the engine gets; a model whose bytes changed is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from verispect.core.encoding import Digest
from verispect.core.statement import Determinism, ModelIdentity
from verispect.engines.interface import EngineIdentity, Lane, LanguageModel, TensorModel
from verispect.models.qualification import was_qualified_on


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model under one name."""

    name: str
    model_id: Digest
    created: int
    """Seconds since the epoch: when the name was given to this model."""
    owner: str
    kind: str
    """`language` or `tensor`."""
    identity: ModelIdentity
    determinism: Determinism
    lanes: tuple[Lane, ...] = (Lane.THROUGHPUT,)
    qualification: Mapping[str, Any] | None = None
    """The record that the determinism class rests on; the class holds for that engine alone."""
    provable: bool = False
    """An integer model with committed weights; its specification leaves an engine no choice."""
    generation_defaults: Mapping[str, int | float] = field(default_factory=dict)
    """Sampler settings of the manifest, for a request that does not say."""

    def determinism_on(self, engine: EngineIdentity) -> Determinism:
        """Return the class that may be stated when `engine` runs the model."""
        if self.provable:
            return self.determinism
        if self.qualification is None or not was_qualified_on(
            self.qualification, engine.to_content()
        ):
            return Determinism.UNQUALIFIED
        return self.determinism


class ModelPool(Protocol):
    """The models that a gateway serves."""

    def names(self) -> Sequence[str]:
        """Return every name, sorted."""
        ...

    def find(self, name: str) -> ServedModel:
        """Return the model of that name.

        Raises:
            ModelError: `model-not-found`.
        """
        ...

    async def language(self, served: ServedModel, lane: Lane) -> LanguageModel:
        """Return the loaded model, loading it once.

        Raises:
            RequestError: the model is no language model, or not offered in this lane.
            ModelError: `model-changed`.
            EngineError: the engine did not start.
        """
        ...

    async def tensor(self, served: ServedModel) -> TensorModel:
        """Return the loaded model, loading it once.

        Raises:
            RequestError: the model is no tensor model.
            ModelError: `model-changed`.
            EngineError: the engine did not start.
        """
        ...

    async def close(self) -> None:
        """Stop every engine."""
        ...
