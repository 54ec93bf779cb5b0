"""States inside a model, read in the space of its own output."""

from cutaway.methods.logit_lens.logit_lens import Lens, logit_lens

__all__ = ["Lens", "logit_lens"]
