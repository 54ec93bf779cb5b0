"""What can be read off states by a linear probe, and what its removal does."""

from cutaway.methods.linear_probing.drawing_probing import DrawnProbes
from cutaway.methods.linear_probing.erasure import Erasure, erase
from cutaway.methods.linear_probing.linear_probing import LinearProbe, linear_probe, linear_probing
from cutaway.methods.linear_probing.probes import Probes

__all__ = ["DrawnProbes", "Erasure", "LinearProbe", "Probes", "erase", "linear_probe", "linear_probing"]
