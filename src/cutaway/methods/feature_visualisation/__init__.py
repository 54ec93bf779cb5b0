"""Feature visualisation: pictures that are made so that a unit, a direction or a number becomes large."""

from cutaway.methods.feature_visualisation.caption_sources import CaptionSources, caption_sources
from cutaway.methods.feature_visualisation.drawing_visualisation import Led, drawing_visualisation
from cutaway.methods.feature_visualisation.feature_visualisation import Visions, feature_visualisation

__all__ = ["CaptionSources", "Led", "Visions", "caption_sources", "drawing_visualisation", "feature_visualisation"]
