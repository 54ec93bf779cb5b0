"""Single units described: neurons of an MLP, dimensions of a residual stream, features of a dictionary."""

from cutaway.methods.neuron_descriptions.neuron_descriptions import Neurons, neuron_descriptions

__all__ = ["Neurons", "neuron_descriptions"]
