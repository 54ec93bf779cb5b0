"""Single units described: neurons of an MLP, dimensions of a residual stream, features of a dictionary."""

from cutaway.methods.neuron_descriptions.multimodal import Selectivity, multimodal_units
from cutaway.methods.neuron_descriptions.neuron_descriptions import Neurons, neuron_descriptions
from cutaway.methods.neuron_descriptions.second_order import SecondOrder, second_order
from cutaway.methods.neuron_descriptions.unit_profiles import Profiles, unit_profiles

__all__ = [
    "Neurons",
    "Profiles",
    "SecondOrder",
    "Selectivity",
    "multimodal_units",
    "neuron_descriptions",
    "second_order",
    "unit_profiles",
]
