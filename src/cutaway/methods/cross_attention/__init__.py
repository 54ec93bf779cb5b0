"""Where a model that draws looks for its words: attention of patches to the words of a prompt."""

from cutaway.methods.cross_attention.concept_attention import ConceptMaps, concept_attention
from cutaway.methods.cross_attention.cross_attention import WordMaps, cross_attention
from cutaway.methods.cross_attention.drawn_again import DrawnAgain, prompt_to_prompt_drawings
from cutaway.methods.cross_attention.hidden import hide_words
from cutaway.methods.cross_attention.prompt_to_prompt import prompt_to_prompt

__all__ = [
    "ConceptMaps", "DrawnAgain", "WordMaps", "concept_attention", "cross_attention", "hide_words", "prompt_to_prompt",
    "prompt_to_prompt_drawings",
]  # fmt: skip
