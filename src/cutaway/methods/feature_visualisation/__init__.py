"""Feature visualisation: pictures that are made so that a unit, a direction or a number becomes large."""

from cutaway.methods.feature_visualisation.feature_visualisation import Visions, feature_visualisation

__all__ = ["Visions", "feature_visualisation"]
