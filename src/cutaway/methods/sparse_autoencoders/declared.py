"""What methods on dictionaries take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.method import Entry, Method
from cutaway.methods.sparse_autoencoders.dictionary_worth import dictionary_worth
from cutaway.methods.sparse_autoencoders.effect_views import show, tell
from cutaway.methods.sparse_autoencoders.feature_effects import feature_effects

METHODS = (
    Method(
        function=feature_effects,
        row="sparse autoencoders",
        takes={"model": "model", "inputs": "inputs", "target": "target"},
        needs=("dictionary",),
        options={
            "site": "The features of one dictionary: text.3.resid_post.features; the first one unless named.",
            "top": "So many features are taken out exactly.",
            "draws": "So many other features that are on, as a baseline.",
        },
        example="zoo:emoji-clip --dictionary zoo:emoji-clip-sae",
        cannot="What a feature stands for, and whether the dictionary cuts the model where the model does: what "
        "features leave over may carry the answer.",
        reported=(Entry(name="features"),),
        show=show,
        tell=tell,
    ),
    Method(
        function=dictionary_worth,
        row="sparse autoencoders",
        takes={"model": "model", "scenes": "scenes"},
        also={"inputs": "inputs", "target": "number"},
        needs=("dictionary",),
        options={
            "site": "The features of one dictionary: text.3.resid_post.features; the first one unless named.",
            "seeds": "How many random dictionaries stand beside it.",
            "step": "At which of 20 steps a denoiser looks at the pictures; in the middle unless named.",
        },
        example="zoo:emoji-clip --dictionary zoo:emoji-clip-sae",
        cannot="Whether features are what the model computes with; a good share of any of these is had by chance.",
    ),
)  # fmt: skip
