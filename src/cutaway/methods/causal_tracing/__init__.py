"""Causal tracing: what follows when activations are moved, replaced or cut."""

from cutaway.methods.causal_tracing.activation_patching import Patching, activation_patching
from cutaway.methods.causal_tracing.drawing_tracing import Tracing, drawing_tracing

__all__ = ["Patching", "Tracing", "activation_patching", "drawing_tracing"]
