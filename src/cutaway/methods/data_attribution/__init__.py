"""Training-data attribution: which training items made a model do this."""

from cutaway.methods.data_attribution.measures import lds, loo_correlation, mislabel_auc, retrieval

__all__ = ["lds", "loo_correlation", "mislabel_auc", "retrieval"]
