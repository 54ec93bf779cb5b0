"""What can be read off states by a linear probe, and what its removal does."""

from cutaway.methods.linear_probing.erasure import Erasure, erase
from cutaway.methods.linear_probing.linear_probing import LinearProbe, Probes, linear_probe, linear_probing

__all__ = ["Erasure", "LinearProbe", "Probes", "erase", "linear_probe", "linear_probing"]
