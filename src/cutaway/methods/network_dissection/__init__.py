"""Network dissection: which units mark what a concept covers."""

from cutaway.methods.network_dissection.network_dissection import Dissection, network_dissection

__all__ = ["Dissection", "network_dissection"]
