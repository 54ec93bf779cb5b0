"""Causal tracing and circuits: what follows when activations are moved, replaced or cut, and along which edges."""

from cutaway.methods.causal_tracing.activation_patching import Patching, activation_patching
from cutaway.methods.causal_tracing.agreement import Agreement, agreement
from cutaway.methods.causal_tracing.alignment import Alignment, distributed_alignment_search
from cutaway.methods.causal_tracing.attention_knockout import Flow, attention_knockout
from cutaway.methods.causal_tracing.attribution_patching import Attribution, attribution_patching
from cutaway.methods.causal_tracing.causal_tracing import Traced, causal_tracing
from cutaway.methods.causal_tracing.circuit import Circuit
from cutaway.methods.causal_tracing.completeness import Completeness, completeness
from cutaway.methods.causal_tracing.drawing_tracing import Tracing, drawing_tracing
from cutaway.methods.causal_tracing.edges import EdgeAttribution, edge_attribution
from cutaway.methods.causal_tracing.faithfulness import Faithfulness, faithfulness
from cutaway.methods.causal_tracing.head_attribution import HeadAttribution, head_attribution
from cutaway.methods.causal_tracing.minimality import Minimality, minimality
from cutaway.methods.causal_tracing.path_patching import PathPatching, path_patching
from cutaway.model.graph import Graph

__all__ = [
    "Agreement",
    "Alignment",
    "Attribution",
    "Circuit",
    "Completeness",
    "EdgeAttribution",
    "Faithfulness",
    "Flow",
    "Graph",
    "HeadAttribution",
    "Minimality",
    "Patching",
    "PathPatching",
    "Traced",
    "Tracing",
    "activation_patching",
    "agreement",
    "attention_knockout",
    "attribution_patching",
    "causal_tracing",
    "completeness",
    "distributed_alignment_search",
    "drawing_tracing",
    "edge_attribution",
    "faithfulness",
    "head_attribution",
    "minimality",
    "path_patching",
]
