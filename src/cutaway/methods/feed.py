"""Where `embedded`, `feed` and `unit` were before `cutaway.questions.rows`: the names that scripts know."""

from cutaway.questions.rows import embedded, feed, unit

__all__ = ["embedded", "feed", "unit"]
