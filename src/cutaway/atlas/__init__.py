"""The atlas of the field: methods by families and applications, the works behind them, and what was measured here.

import cutaway
atlas = cutaway.atlas.open_atlas()
atlas.search("hallucination lens"); atlas.related("neo24"); atlas.cite("neo24", "ris")
"""

from cutaway.atlas.atlas import STATES, Atlas, Cell, open_atlas
from cutaway.atlas.cite import cite
from cutaway.atlas.evidence import evidence, sides
from cutaway.atlas.sources import cited_by, sources_of, users_of
from cutaway.atlas.works import Problem, Work

__all__ = [
    "STATES", "Atlas", "Cell", "Problem", "Work", "cite", "cited_by", "evidence", "open_atlas", "sides", "sources_of",
    "users_of",
]  # fmt: skip
