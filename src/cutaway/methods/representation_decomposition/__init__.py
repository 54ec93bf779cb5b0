"""Embeddings as exact sums over layers, heads, MLPs and positions."""

from cutaway.methods.representation_decomposition.direct import Direct
from cutaway.methods.representation_decomposition.representation_decomposition import (
    AblationCurve,
    Decomposition,
    accumulated_ablation,
    decompositions,
    representation_decomposition,
)

__all__ = [
    "AblationCurve",
    "Decomposition",
    "Direct",
    "accumulated_ablation",
    "decompositions",
    "representation_decomposition",
]
