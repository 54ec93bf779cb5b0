"""Every method that is declared, and which of them answers which question."""

from __future__ import annotations

from collections.abc import Iterator

from cutaway.errors import MethodError, near
from cutaway.methods.causal_tracing import circuits_declared as circuits
from cutaway.methods.causal_tracing import declared as causal_tracing
from cutaway.methods.cross_attention import declared as cross_attention
from cutaway.methods.feature_visualisation import declared as feature_visualisation
from cutaway.methods.linear_probing import declared as linear_probing
from cutaway.methods.logit_lens import declared as logit_lens
from cutaway.methods.method import Method
from cutaway.methods.network_dissection import declared as network_dissection
from cutaway.methods.neuron_descriptions import declared as neuron_descriptions
from cutaway.methods.relevance import declared as relevance
from cutaway.methods.representation_decomposition import declared as representation_decomposition
from cutaway.methods.sparse_autoencoders import declared as sparse_autoencoders
from cutaway.methods.task_vectors import declared as task_vectors
from cutaway.methods.text_explanation import declared as text_explanation

# In the order in which a report shows them: what adds up, where it appears, what it is called, what it takes.
METHODS: tuple[Method, ...] = (
    *representation_decomposition.METHODS, *text_explanation.METHODS, *network_dissection.METHODS,
*neuron_descriptions.METHODS, *sparse_autoencoders.METHODS, *causal_tracing.METHODS, *circuits.METHODS,
    *cross_attention.METHODS,
    *logit_lens.METHODS, *task_vectors.METHODS, *linear_probing.METHODS,
    *relevance.METHODS,
    *feature_visualisation.METHODS,
)  # fmt: skip


def method(name: str) -> Method:
    """A declared method by its name, with `-` or `_`.

    >>> method("logit-lens").row
    'logit lens'
    """
    found = {one.name: one for one in METHODS}.get(name.replace("-", "_"))
    if found is None:
        raise MethodError(
            f"no method is called '{name}'", expected="a method of `cutaway methods`",
            exists=near(name, [one.name for one in METHODS]), do="choose one of these",
        )  # fmt: skip
    return found


def in_row(row: str) -> Iterator[Method]:
    """The methods of one row of the taxonomy."""
    return (one for one in METHODS if one.row == row)
