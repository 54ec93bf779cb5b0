"""States inside a model, read in the space of its own output."""

from cutaway.methods.logit_lens.logit_lens import Lens, logit_lens
from cutaway.methods.logit_lens.tuned_lens import TunedLens, tuned_lens
from cutaway.methods.logit_lens.word_lens import WordLens, word_lens

__all__ = ["Lens", "TunedLens", "WordLens", "logit_lens", "tuned_lens", "word_lens"]
