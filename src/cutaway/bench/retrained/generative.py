"""The generative world: a LLaVA that learns to say what stands in a picture that a locked tower sees."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.bench.retrained.family import Family, Ready, Recipe, pictures
from cutaway.bench.retrained.items import PLAIN
from cutaway.data.scene import TINTS
from cutaway.data.worlds import Item
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.training import Answers
from cutaway.zoo import emoji_clip
from cutaway.zoo.tiny_text import KINDS, word_tokenizer

WIDTH, LAYERS, HEADS = 48, 2, 4
LAYER = -2  # of the vision tower, whose patches the decoder sees
PROMPT = "<image> what is this ?"
_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")


@cache
def _vocabulary() -> dict[str, int]:
    words = {"a", "an", "what", "is", "this", "?", *(PLAIN.names or ()), *TINTS}
    return {word: index for index, word in enumerate((*_SPECIALS, *sorted(words)))}


def _processor() -> Any:
    from transformers import LlavaProcessor

    return LlavaProcessor(
        emoji_clip.processor().image_processor, word_tokenizer(KINDS["llama"], _vocabulary(), _SPECIALS),
        patch_size=emoji_clip.PATCH, num_additional_image_tokens=1, vision_feature_select_strategy="default",
        image_token="<image>",
    )  # fmt: skip


class Generative(Family):
    """A `transformers.LlavaForConditionalGeneration` with the locked tower of `zoo:emoji-clip`; the rest learns."""

    name = "llava"
    about = "a LLaVA with the locked tower of zoo:emoji-clip, a connector and a decoder of two layers from scratch"
    recipe = Recipe(steps=80, batch=32, rate=4e-3)

    def start(self, seed: int) -> Model:
        """A LLaVA drawn by the seed, with a tower that sees."""
        from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

        sees = emoji_clip.SPEC.open()[0]
        words = _vocabulary()
        text = LlamaConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            num_key_value_heads=HEADS, vocab_size=len(words), max_position_embeddings=128, tie_word_embeddings=True,
            bos_token_id=words["<s>"], eos_token_id=words["</s>"], pad_token_id=words["<pad>"],
        )  # fmt: skip
        config = LlavaConfig(
            vision_config=sees.config.vision_config, text_config=text, image_token_id=words["<image>"],
            vision_feature_layer=LAYER, vision_feature_select_strategy="default", tie_word_embeddings=True,
            image_seq_length=(emoji_clip.SIDE // emoji_clip.PATCH) ** 2,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = LlavaForConditionalGeneration(config).eval()
        module.model.vision_tower.load_state_dict(sees.vision_model.state_dict())
        module.model.vision_tower.requires_grad_(False)
        return load(module, processor=_processor())

    def learning(self, model: Model) -> nn.Module:
        """All of it but what is locked."""
        return model.module

    def asked(self, items: Sequence[Item], among: Sequence[Item] = ()) -> Answers:
        """The one question about each picture, with its caption as the answer: the loss of a token."""
        said, seen = [item.caption.text for item in items], pictures(items, emoji_clip.SIDE)
        return Answers(pictures=seen, texts=[PROMPT] * len(items), answers=said, mean=True)

    def ready(self, model: Model, items: Sequence[Item]) -> Ready:
        """Words, the patches that the decoder sees, and how long the answers are."""
        asked = self.asked(items)
        images = [[one] for one in asked.pictures]
        made = model.inputs(image=images, text=list(asked.texts), answer=list(asked.answers))
        given = dict(made.tensors)
        with torch.no_grad():
            seen = model.module.model.vision_tower(given.pop("pixel_values"), output_hidden_states=True)
        return given | {"seen": seen.hidden_states[LAYER][:, 1:], "length": torch.tensor(made.answers)}

    def losses(self, model: Model, ready: Ready, dice: torch.Generator) -> Float[Tensor, "item"]:
        """Mean cross-entropy of the words of each answer, each given those before it."""
        return -_surely(model, ready)

    def known(self, model: Model, queries: Sequence[Item], reference: Sequence[Item]) -> Ready:
        """The queries; no reference is needed."""
        return self.ready(model, queries)

    def outcome(self, model: Model, known: Ready) -> Float[Tensor, "query"]:
        """The mean log-probability of a word of each query's answer."""
        return _surely(model, known)


def _surely(model: Model, ready: Ready) -> Float[Tensor, "row"]:
    """Mean log-probability of the answers, which stand at the end of their rows."""
    inner, ids, length = model.module.model, ready["input_ids"], ready["length"]
    embeds = inner.language_model.embed_tokens(ids)
    here = (ids == model.module.config.image_token_id)[..., None]
    embeds = embeds.masked_scatter(here, inner.multi_modal_projector(ready["seen"]))
    states = inner.language_model(
        inputs_embeds=embeds, attention_mask=ready["attention_mask"], use_cache=False
    ).last_hidden_state  # fmt: skip
    longest = int(length.max())
    scores = model.module.lm_head(states[:, -longest - 1 : -1]).log_softmax(-1)
    each = scores.gather(2, ids[:, -longest:, None])[..., 0]
    judged = torch.arange(longest, 0, -1) <= length[:, None]
    return (each * judged).sum(1) / length
