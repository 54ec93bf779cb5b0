"""Text explanations of embeddings: heads by texts they vary with, pictures as texts, states as concepts."""

from cutaway.methods.text_explanation.concept_dictionary import ConceptDictionary, concept_dictionary
from cutaway.methods.text_explanation.drawing_heads import DrawingHeads, drawing_heads
from cutaway.methods.text_explanation.splice import SparseTexts, picture_texts, splice
from cutaway.methods.text_explanation.text_span import Spans, head_texts, text_span

__all__ = [
    "ConceptDictionary",
    "DrawingHeads",
    "Spans",
    "SparseTexts",
    "concept_dictionary",
    "drawing_heads",
    "head_texts",
    "picture_texts",
    "splice",
    "text_span",
]
