"""Causal tracing: what follows when activations are moved, replaced or cut."""

from cutaway.methods.causal_tracing.activation_patching import Patching, activation_patching

__all__ = ["Patching", "activation_patching"]
