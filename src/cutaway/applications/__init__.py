"""What the methods are for."""

from cutaway.applications.concept_editing import ConceptEdit, concept_edit

__all__ = ["ConceptEdit", "concept_edit"]
