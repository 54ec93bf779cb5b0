"""What text explanations take, need and can not tell."""

from __future__ import annotations

from cutaway.methods.method import Entry, Method
from cutaway.methods.text_explanation.splice import picture_texts
from cutaway.methods.text_explanation.text_span import head_texts
from cutaway.methods.text_explanation.views import sparse

ROW = "text explanations of embeddings"

METHODS = (
    Method(
        function=head_texts,
        row=ROW,
        takes={"model": "model", "pictures": "crowd", "bank": "bank"},
        needs=("space",),
        options={"picks": "How many texts name a head."},
        cannot="Texts along which a head varies on these pictures: not what it does, and no word that the bank lacks.",
        reported=(Entry(name="head_texts", options={"picks": 3}),),
    ),
    Method(
        function=picture_texts,
        row=ROW,
        takes={"model": "model", "pictures": "pictures", "bank": "bank", "crowd": "crowd"},
        needs=("space",),
        options={"penalty": "Larger: fewer texts."},
        cannot="A description, not an effect on the output; of near-synonyms one is picked.",
        reported=(Entry(name="splice"),),
        show=sparse,
    ),
)
