"""Training-data attribution: which training items made a model do this."""

from cutaway.methods.data_attribution.data_attribution import DataAttribution, chosen_pieces, data_attribution
from cutaway.methods.data_attribution.features import Features, Plan, Projection, eigenbases, item_features
from cutaway.methods.data_attribution.measures import lds, loo_correlation, mislabel_auc, retrieval

__all__ = [
    "DataAttribution",
    "Features",
    "Plan",
    "Projection",
    "chosen_pieces",
    "data_attribution",
    "eigenbases",
    "item_features",
    "lds",
    "loo_correlation",
    "mislabel_auc",
    "retrieval",
]
