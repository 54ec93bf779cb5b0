"""What is asked of a model, and what there is to compare the answer with."""

from cutaway.questions.asked import asked, written
from cutaway.questions.drawn import apart
from cutaway.questions.question import Question, ask, draw, match

__all__ = ["Question", "apart", "ask", "asked", "draw", "match", "written"]
