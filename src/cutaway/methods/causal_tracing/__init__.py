"""Causal tracing and circuits: what follows when activations are moved, replaced or cut, and along which edges."""

from cutaway.methods.causal_tracing.activation_patching import Patching, activation_patching
from cutaway.methods.causal_tracing.alignment import Alignment, distributed_alignment_search
from cutaway.methods.causal_tracing.attribution_patching import Attribution, attribution_patching
from cutaway.methods.causal_tracing.circuit import Circuit
from cutaway.methods.causal_tracing.drawing_tracing import Tracing, drawing_tracing
from cutaway.methods.causal_tracing.edges import EdgeAttribution, edge_attribution
from cutaway.methods.causal_tracing.faithfulness import Faithfulness, faithfulness
from cutaway.methods.causal_tracing.graph import Graph
from cutaway.methods.causal_tracing.head_attribution import HeadAttribution, head_attribution
from cutaway.methods.causal_tracing.path_patching import PathPatching, path_patching

__all__ = [
    "Alignment",
    "Attribution",
    "Circuit",
    "EdgeAttribution",
    "Faithfulness",
    "Graph",
    "HeadAttribution",
    "Patching",
    "PathPatching",
    "Tracing",
    "activation_patching",
    "attribution_patching",
    "distributed_alignment_search",
    "drawing_tracing",
    "edge_attribution",
    "faithfulness",
    "head_attribution",
    "path_patching",
]
