"""Models with a circuit that was planted in them, and how well it holds."""

from cutaway.bench.worlds.holds import Planting, planted
from cutaway.bench.worlds.table import WORLDS, world
from cutaway.bench.worlds.world import Pairs, World

__all__ = ["WORLDS", "Pairs", "Planting", "World", "planted", "world"]
