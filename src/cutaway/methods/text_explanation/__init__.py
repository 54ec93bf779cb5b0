"""Text explanations of embeddings: heads by the texts they vary with, pictures as sums of texts."""

from cutaway.methods.text_explanation.splice import SparseTexts, picture_texts, splice
from cutaway.methods.text_explanation.text_span import Spans, head_texts, text_span

__all__ = ["Spans", "SparseTexts", "head_texts", "picture_texts", "splice", "text_span"]
