"""Embeddings as exact sums over layers, heads, MLPs and positions."""

from cutaway.methods.representation_decomposition.representation_decomposition import (
    AblationCurve,
    Decomposition,
    accumulated_ablation,
    decompositions,
    representation_decomposition,
)

__all__ = ["AblationCurve", "Decomposition", "accumulated_ablation", "decompositions", "representation_decomposition"]
