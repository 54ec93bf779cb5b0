"""Models that train in seconds, with what many trainings without some of their items gave: truth for attribution."""

from cutaway.bench.retrained.items import Planted, Truth, planted
from cutaway.bench.retrained.world import FAMILIES, LeftOut, Retrained, world

__all__ = ["FAMILIES", "LeftOut", "Planted", "Retrained", "Truth", "planted", "world"]
