"""Relevance: which parts of a picture and which words a number, a token or a drawn thing depends on."""

from cutaway.methods.relevance.aims import drawn_by_prompt
from cutaway.methods.relevance.relevance import Relevance, relevance
from cutaway.methods.relevance.tokens import token_relevance

__all__ = ["Relevance", "drawn_by_prompt", "relevance", "token_relevance"]
