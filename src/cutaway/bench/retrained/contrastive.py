"""The contrastive world: a CLIP whose pictures are seen by a locked tower and whose words are learnt anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from cutaway.bench.retrained.family import Family, Ready, Recipe, pictures
from cutaway.bench.retrained.items import PLAIN
from cutaway.data.scene import TINTS
from cutaway.data.worlds import Item
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.training import Pairs
from cutaway.zoo import emoji_clip
from cutaway.zoo.tiny_text import KINDS, word_tokenizer

WIDTH, LAYERS, HEADS, LONGEST = 48, 2, 4, 8
SCALE = 10.0  # of the cosines; it does not learn
_SPECIALS = ("<unk>", "<|startoftext|>", "<|endoftext|>")


def _surely(
    seen: Float[Tensor, "row joint"], said: Float[Tensor, "row joint"], pictures: Tensor, texts: Tensor, scale: float
) -> Float[Tensor, "row"]:
    own = (seen * said).sum(-1, keepdim=True)
    both = [torch.cat([own, one @ others.to(own).T], 1) * scale for one, others in ((seen, texts), (said, pictures))]
    return (both[0].log_softmax(1)[:, 0] + both[1].log_softmax(1)[:, 0]) / 2


@cache
def _vocabulary() -> dict[str, int]:
    words = {"a", "an", *PLAIN.names, *TINTS}  # type: ignore[misc]
    return {word: index for index, word in enumerate((*sorted(words), *_SPECIALS))}


def _processor() -> Any:
    from transformers import CLIPProcessor

    words = word_tokenizer(replace(KINDS["clip"], max_length=LONGEST), _vocabulary(), _SPECIALS)
    return CLIPProcessor(emoji_clip.processor().image_processor, words)


class Contrastive(Family):
    """A `transformers.CLIPModel`: the picture tower of `zoo:emoji-clip` is locked, words and both projections learn.

    Zhai et al. 2022 (2111.07991).
    """

    name = "clip"
    about = "a CLIP with the locked picture tower of zoo:emoji-clip, a text tower of two layers from scratch"
    recipe = Recipe(steps=150, batch=96, rate=3e-3)

    def start(self, seed: int) -> Model:
        """A CLIP drawn by the seed, with a tower that sees."""
        from transformers import CLIPConfig, CLIPModel

        sees = emoji_clip.SPEC.open()[0]
        start, end = (_vocabulary()[word] for word in _SPECIALS[1:])
        text = {
            "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS, "hidden_act": "gelu", "vocab_size": len(_vocabulary()),
            "max_position_embeddings": LONGEST, "bos_token_id": start, "eos_token_id": end, "pad_token_id": end,
        }  # fmt: skip
        vision = sees.config.vision_config.to_dict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).eval()
        module.vision_model.load_state_dict(sees.vision_model.state_dict())
        module.vision_model.requires_grad_(False)
        module.logit_scale.requires_grad_(False).fill_(torch.tensor(SCALE).log())
        return load(module, processor=_processor())

    def learning(self, model: Model) -> nn.Module:
        """All of it but what is locked."""
        return model.module

    def asked(self, items: Sequence[Item], among: Sequence[Item] = ()) -> Pairs:
        """Pairs, each told from the others or, where there are none, from one another."""
        seen, said = pictures(items, emoji_clip.SIDE), [item.caption.text for item in items]
        return Pairs(pictures=seen, texts=said, among=self.asked(among) if among else None)

    def ready(self, model: Model, items: Sequence[Item]) -> Ready:
        """What the locked tower sees, and the words."""
        made = self.asked(items)
        given = dict(model.inputs(image=made.pictures, text=list(made.texts)).tensors)
        with torch.no_grad():
            return given | {"pixel_values": model.module.vision_model(given["pixel_values"]).pooler_output}

    def losses(self, model: Model, ready: Ready, dice: torch.Generator) -> Float[Tensor, "item"]:
        """Symmetric cross-entropy of each pair among those of the batch."""
        seen, said = _embedded(model, ready)
        logits = SCALE * seen @ said.T
        return -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()) / 2

    def known(self, model: Model, queries: Sequence[Item], reference: Sequence[Item]) -> Ready:
        """Queries, then the reference."""
        return dict(self.ready(model, [*queries, *reference])) | {"queries": torch.tensor(len(queries))}

    def outcome(self, model: Model, known: Ready) -> Float[Tensor, "query"]:
        """How surely each query is told from the reference, as this model embeds both."""
        seen, said = _embedded(model, known)
        many = int(known["queries"])
        return _surely(seen[:many], said[:many], seen[many:], said[many:], SCALE)


def _embedded(model: Model, ready: Ready) -> tuple[Float[Tensor, "row joint"], Float[Tensor, "row joint"]]:
    """Pictures and texts in the joint space, normalised."""
    module = model.module
    texts = module.get_text_features(input_ids=ready["input_ids"], attention_mask=ready["attention_mask"])
    return normalize(module.visual_projection(ready["pixel_values"]), dim=-1), normalize(texts.pooler_output, dim=-1)
