"""Network dissection: which units mark what a concept covers, and how descriptions of units are judged."""

from cutaway.methods.network_dissection.clip_dissect import clip_dissect, soft_wpmi
from cutaway.methods.network_dissection.compositions import Formula, composition
from cutaway.methods.network_dissection.cosy import Drawn, cosy
from cutaway.methods.network_dissection.description_scores import DescriptionScores, description_scores
from cutaway.methods.network_dissection.network_dissection import Dissection, network_dissection
from cutaway.methods.network_dissection.similarities import extra_labels, missing_labels, similarities

__all__ = [
    "DescriptionScores",
    "Dissection",
    "Drawn",
    "Formula",
    "clip_dissect",
    "composition",
    "cosy",
    "description_scores",
    "extra_labels",
    "missing_labels",
    "network_dissection",
    "similarities",
    "soft_wpmi",
]
