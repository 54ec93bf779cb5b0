"""Embeddings and logits as exact sums over layers, heads, MLPs and positions."""

from cutaway.methods.representation_decomposition.accumulated_ablation import AblationCurve, accumulated_ablation
from cutaway.methods.representation_decomposition.direct import Direct
from cutaway.methods.representation_decomposition.logit_decomposition import LogitDecomposition, logit_decomposition
from cutaway.methods.representation_decomposition.representation_decomposition import (
    Decomposition,
    decompositions,
    representation_decomposition,
)
from cutaway.methods.representation_decomposition.velocity_decomposition import (
    VelocityDecomposition,
    velocity_decomposition,
)

__all__ = [
    "AblationCurve",
    "Decomposition",
    "Direct",
    "LogitDecomposition",
    "VelocityDecomposition",
    "accumulated_ablation",
    "decompositions",
    "logit_decomposition",
    "representation_decomposition",
    "velocity_decomposition",
]
