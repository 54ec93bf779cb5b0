"""Causal tracing: what follows when activations are moved, replaced or cut."""

from cutaway.methods.causal_tracing.activation_patching import Patching, activation_patching
from cutaway.methods.causal_tracing.attention_knockout import Flow, attention_knockout
from cutaway.methods.causal_tracing.causal_tracing import Traced, causal_tracing
from cutaway.methods.causal_tracing.drawing_tracing import Tracing, drawing_tracing

__all__ = [
    "Flow",
    "Patching",
    "Traced",
    "Tracing",
    "activation_patching",
    "attention_knockout",
    "causal_tracing",
    "drawing_tracing",
]
