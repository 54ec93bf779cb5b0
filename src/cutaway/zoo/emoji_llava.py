"""`zoo:emoji-llava`: what it is made of, and the conversations it is trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import avg_pool2d, normalize

from cutaway import data
from cutaway.data.worlds import EMOJIWORLD
from cutaway.zoo import emoji_clip
from cutaway.zoo.contexts import AGAIN, PLACES, SHARES, SINGLE, Places, conversation, some_scene
from cutaway.zoo.conversations import Batch, batch
from cutaway.zoo.evaluate import Eyes, Row
from cutaway.zoo.evaluate_llava import evaluate, pictured
from cutaway.zoo.language import Named, Recipe, scored, train
from cutaway.zoo.spec import Spec, Told
from cutaway.zoo.vocabulary import BEGIN, END, PAD, PICTURE, tokenizer, vocabulary

LAYERS, WIDTH, INNER, HEADS = 6, 192, 512, 6
LONGEST = 512
COVERED = 0.5  # share of a patch from which one thing is what it shows
NORM = 0.7  # of the vectors that names and patches begin with
LAYER = -2  # of the vision tower, whose patches the decoder sees
PLACED = 0  # the layer whose patches it sees beside: by `LAYER` a patch has forgotten in which column it lies
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}<|user|>{% else %}<|assistant|>"
    "{% endif %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% set pictures = message.content | selectattr('type', 'equalto', 'image') | list | length %}"
    "{% set seen = namespace(count=0) %}{% for part in message.content %}{% if part.type == 'image' %}"
    "{% set seen.count = seen.count + 1 %}{% if pictures > 1 %}picture {{ seen.count }}: {% endif %}<image>"
    "{% else %}{{ part.text }}{% endif %} {% endfor %}{% endif %}"
    "{% if message.role != 'user' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def untrained(seed: int = 0) -> Any:
    """Before training: the vision tower of `zoo:emoji-clip`, a decoder drawn by `seed`, a connector between."""
    from transformers import CLIPModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    clip = CLIPModel.from_pretrained(emoji_clip.SPEC.found(), dtype=torch.float32)
    text = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, vocab_size=len(vocabulary()), max_position_embeddings=LONGEST,
        tie_word_embeddings=True, bos_token_id=BEGIN, eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=clip.config.vision_config, text_config=text, image_token_id=PICTURE,
        vision_feature_layer=[PLACED, LAYER], vision_feature_select_strategy="default", tie_word_embeddings=True,
        image_seq_length=(emoji_clip.SIDE // emoji_clip.PATCH) ** 2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
        _begin(model, clip)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    for parameter in _unread(model):
        parameter.requires_grad_(False)
    return model


@torch.no_grad()
def _begin(model: Any, clip: Any) -> None:
    """Start from what the CLIP knows, turned into the decoder's width by one drawn rotation.

    The name of a thing begins where the CLIP's text for it lies, and a patch where the CLIP's last layer would move its
    picture if it attended to that patch alone: to first order, so that a patch lies near the names of what it shows.
    """
    names = [concept.name for concept in data.concepts()]
    texts = Eyes(clip, emoji_clip.processor()).texts(data.concept(name).one for name in names)
    turn = torch.linalg.qr(torch.randn(WIDTH, texts.shape[1]))[0]
    rows = torch.tensor([vocabulary()[name] for name in names])
    model.get_input_embeddings().weight[rows] = NORM * normalize(texts - texts.mean(0), dim=1) @ turn.T
    last, tower = clip.vision_model.encoder.layers[-1], clip.vision_model
    read = clip.visual_projection.weight * tower.post_layernorm.weight @ last.self_attn.out_proj.weight
    read = read @ last.self_attn.v_proj.weight * last.layer_norm1.weight
    pixels = data.tensor(list(data.scenes("train", 64))).float() / 127.5 - 1
    patches = tower(pixels, output_hidden_states=True).hidden_states[LAYER][:, 1:].flatten(0, 1)
    middle = patches.mean(0)
    seen = (patches - middle) @ read.T
    pairs = WIDTH // 2  # gelu(x) - gelu(-x) = x: two hidden units carry one direction through unchanged
    onto = torch.linalg.svd(seen, full_matrices=False).Vh[:pairs].T
    spread, scale = (seen @ onto).std(0), NORM / seen.norm(dim=1).mean()
    into, out = (onto / spread).T @ read, turn @ onto * spread * scale
    first, second = model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2
    first.weight.zero_()
    first.weight[:, -len(middle) :] = torch.cat([into, -into])  # behind what layer `PLACED` gives, which begins unread
    first.bias.copy_(-first.weight[:, -len(middle) :] @ middle)
    second.weight.copy_(torch.cat([out, -out], 1))
    second.bias.zero_()


def _unread(model: Any) -> list[torch.nn.Parameter]:
    """What lies behind the layer that the decoder sees."""
    tower = model.model.vision_tower
    behind = [*tower.encoder.layers[LAYER + 1 :], tower.post_layernorm]
    return [parameter for module in behind for parameter in module.parameters()]


def processor() -> Any:
    """Its pictures, words and chat: 64 × 64 in [-1, 1], a word an id, 64 places for the patches of a picture."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        emoji_clip.processor().image_processor, tokenizer(), patch_size=emoji_clip.PATCH, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", image_token="<image>", chat_template=TEMPLATE,
    )  # fmt: skip


def batches(recipe: Recipe) -> Callable[[int], list[Batch | Named]]:
    """What any step learns from: conversations, those of one kind of context together, or the names of patches."""

    def draw(step: int) -> list[Batch | Named]:
        rng = random.Random(f"emoji-llava/{recipe.seed}/{step}")
        if recipe.names_at(step):
            return [named([some_scene(rng, "train") for _ in range(recipe.pictures)])]
        again, only = step >= recipe.again, recipe.places <= step < recipe.rest
        shares = PLACES if only else AGAIN if again else SINGLE if step < recipe.single else SHARES
        numbers = {kind: max(1, round(recipe.batch * share)) for kind, share in shares.items()}
        places: Places = "only" if only else "mostly" if again else ""
        made: list[Batch | Named] = [
            batch([conversation(rng, kind, places=places) for _ in range(number)]) for kind, number in numbers.items()
        ]
        if again or only:
            made.append(named([some_scene(rng, "train") for _ in range(recipe.named)]))
        return made

    return draw


def named(scenes: Sequence[data.Scene]) -> Named:
    """Scenes, and the word for each patch of which one thing covers at least `COVERED`."""
    across = emoji_clip.SIDE // emoji_clip.PATCH
    words = torch.full((len(scenes), across**2), PAD)
    for row, scene in zip(words, scenes, strict=True):
        layers = torch.from_numpy(data.coverage(scene)[1:-1])
        share, thing = avg_pool2d(layers, emoji_clip.PATCH).flatten(1).max(0)
        names = torch.tensor([vocabulary()[one.concept] for one in scene.things])
        row[share >= COVERED] = names[thing][share >= COVERED]
    return Named(data.tensor(scenes), words)


@torch.inference_mode()
def _lost(module: Any, shipped: Any) -> float:
    """The largest change of a logit of the answers about 100 test scenes."""
    made = batch(pictured("test", 100))
    return (scored(module, made)[0] - scored(shipped, made)[0]).abs().max().item()


def _measure(module: Any, _: Any, n: int, told: Told) -> list[Row]:
    return evaluate(module, n=n // 4, told=told)


SPEC = Spec(
    "emoji-llava", "a small LLaVA that answers questions about these scenes",
    start=untrained, processor=processor, recipe=Recipe, batches=batches, train=train,
    measure=_measure, lost=_lost, template=Path(__file__).with_suffix(".md"),
    asked="answer", crowd=EMOJIWORLD, bank=EMOJIWORLD,
)  # fmt: skip
