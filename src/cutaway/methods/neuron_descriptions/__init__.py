"""Single units described: neurons of an MLP, dimensions of a residual stream, features of a dictionary."""

from cutaway.methods.neuron_descriptions.neuron_descriptions import Neurons, neuron_descriptions
from cutaway.methods.neuron_descriptions.unit_profiles import Profiles, unit_profiles

__all__ = ["Neurons", "Profiles", "neuron_descriptions", "unit_profiles"]
