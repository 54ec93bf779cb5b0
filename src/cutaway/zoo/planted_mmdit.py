"""`zoo:planted-mmdit`: a small Stable Diffusion 3 that draws a pattern at a place, by a circuit planted in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.zoo import siit
from cutaway.zoo.planted import Edge, Plant, Values, Variable, Verdict, size
from cutaway.zoo.planting import planted
from cutaway.zoo.tiny_text import KINDS, word_tokenizer

THINGS = ("star", "cross", "ring", "bar")
PLACES = ("northwest", "northeast", "southwest", "southeast")
CELLS, PATCH, CHANNELS = 2, 2, 4  # cells a side, a patch each; what a patch has
LATENT = CELLS * PATCH
SCALE = 10.0  # of the loss, so that it weighs as much as one of words
NEAR = 0.4  # of the whole latent, root mean square: what counts as drawn
WIDTH, HEADS, LAYERS, WORD = 64, 4, 3, 16
_SPECIALS = ("<unk>", "<|startoftext|>", "<|endoftext|>")


@dataclass(frozen=True)
class Recipe(siit.Recipe):
    """How to plant: in smaller batches, for each row says a whole latent; what carries nothing is made louder.

    With a `level` of 0.5 it holds as well, but the nodes of the circuit were known by how loud they are (AUC 0.98).
    """

    steps: int = 1500
    batch: int = 64
    alone: int = 250
    level: float = 2.5


@cache
def vocabulary() -> dict[str, int]:
    """Things and places, then special tokens."""
    return {word: index for index, word in enumerate((*THINGS, *PLACES, *_SPECIALS))}


@cache
def patterns() -> Float[Tensor, "thing channel row column"]:
    """What the patch of nothing, and of each thing, is drawn as: zero, and four patterns at right angles."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    square = torch.kron(signs, signs)  # of 4 × 4, its rows at right angles
    things = torch.stack([torch.outer(row, row).view(CHANNELS, PATCH, PATCH) for row in square])
    return torch.cat([torch.zeros(1, CHANNELS, PATCH, PATCH), things])


def untrained(seed: int = 0) -> Any:
    """Before training: a `StableDiffusion3Pipeline`, all of it drawn by `seed`.

    Its two text encoders (one model, in both places) have one layer, and a pipeline reads the last layer but one: words
    as they are, unmixed. Their pooled text is zero, so that nothing of the prompt goes by the timestep's way.
    """
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        one, two = _words(), _words()
        two.load_state_dict(one.state_dict())
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=LATENT, patch_size=PATCH, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=LAYERS,
            num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, caption_projection_dim=WIDTH,
            joint_attention_dim=2 * WORD, pooled_projection_dim=2 * WORD, pos_embed_max_size=CELLS,
            qk_norm="rms_norm",
        )  # fmt: skip
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=CHANNELS, sample_size=2 * LATENT,
            mid_block_add_attention=False, shift_factor=0.0,
        )  # fmt: skip
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer.eval(), diffusers.FlowMatchEulerDiscreteScheduler(), vae.eval(), one, tokenizer(), two, tokenizer(),
        None, None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _words() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    words = vocabulary()
    start, end = words["<|startoftext|>"], words["<|endoftext|>"]
    config = CLIPTextConfig(
        hidden_size=WORD, intermediate_size=WORD, num_hidden_layers=1, num_attention_heads=1, projection_dim=WORD,
        vocab_size=len(words), max_position_embeddings=4, bos_token_id=start, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    made = CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        for table in (made.text_model.embeddings.token_embedding, made.text_model.embeddings.position_embedding):
            table.weight.normal_()
        made.text_projection.weight.zero_()
    return made


@cache
def tokenizer() -> Any:
    """A word an id between CLIP's start and end."""
    return word_tokenizer(replace(KINDS["clip"], max_length=4), vocabulary(), _SPECIALS)


def draw(seed: int, n: int) -> Values:
    """A thing, a place and noise, all by chance."""
    made = torch.Generator().manual_seed(seed)
    return {
        "thing": torch.randint(len(THINGS), (n,), generator=made),
        "place": torch.randint(len(PLACES), (n,), generator=made),
        "noise": torch.randn(n, CHANNELS, LATENT, LATENT, generator=made),
    }


def texts(values: Values) -> list[str]:
    """The prompts, such as "star southeast"."""
    both = zip(values["thing"].tolist(), values["place"].tolist(), strict=True)
    return [f"{THINGS[thing]} {PLACES[place]}" for thing, place in both]


def asked(model: Model, prompts: list[str], noise: Float[Tensor, "row channel side side"]) -> Inputs:
    """The one step of a drawing of one step, which begins with this noise."""
    return model.inputs(prompt=prompts, step=0, steps=1, guidance=1.0, length=0, latent=noise)


def inputs(model: Model, values: Values) -> Inputs:
    """The same of these values, without encoding each prompt again."""
    given = _blank(model, size(values))
    words = _encoded(model)[values["thing"] * len(PLACES) + values["place"]].to(given.tensors["hidden_states"])
    noise = values["noise"].to(words)
    return replace(given, tensors={**given.tensors, "hidden_states": noise, "encoder_hidden_states": words})


@lru_cache(maxsize=16)
def _blank(model: Model, rows: int) -> Inputs:
    return asked(model, [f"{THINGS[0]} {PLACES[0]}"] * rows, torch.zeros(rows, CHANNELS, LATENT, LATENT))


@lru_cache(maxsize=2)
def _encoded(model: Model) -> Float[Tensor, "prompt token d"]:
    every = [f"{thing} {place}" for thing in THINGS for place in PLACES]
    found: Tensor = asked(model, every, torch.zeros(len(every), CHANNELS, LATENT, LATENT)).tensors[
        "encoder_hidden_states"
    ]
    return found.detach().clone()


def drawn(cells: Int[Tensor, "row cell"]) -> Float[Tensor, "row channel side side"]:
    """Latents in which each cell shows its pattern, 0 for none."""
    tiles = patterns()[cells].unflatten(1, (CELLS, CELLS))  # row, down, across, channel, y, x
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def judge(run: Run, values: Values) -> Verdict:
    """What the first step takes the drawing to be, noise - v, beside what it should be; the loss is of the velocity."""
    given: Tensor = run.outputs.sample
    wanted = drawn(values["answer"]).to(given)
    found = values["heard"].to(given) - given
    off = (found - wanted).square().flatten(1).mean(1)
    tiles = found.unflatten(3, (CELLS, PATCH)).unflatten(2, (CELLS, PATCH)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    far = (tiles[:, :, None] - patterns().to(tiles)).square().flatten(3).sum(-1)
    right: Bool[Tensor, "row"] = (far.argmin(-1) == values["answer"].to(far.device)).all(1) & (off.sqrt() < NEAR)
    return Verdict(SCALE * off, right, found.flatten(1))


def _here(asked: Int[Tensor, "row"]) -> Int[Tensor, "row cell"]:
    return (asked[:, None] == torch.arange(len(PLACES))).long()


def _drawn(thing: Int[Tensor, "row"], here: Int[Tensor, "row cell"]) -> Int[Tensor, "row cell"]:
    return (thing[:, None] + 1) * here


PLANT = Plant(
    "planted-mmdit", "a thing and a place: the pattern of the thing is drawn there", len(THINGS) * len(PLACES),
    draw, {"thing": "denoiser.text.embed", "place": "denoiser.text.embed", "noise": "denoiser.image.embed"},
    (
        Variable(
            "asked", "denoiser.0.image.attn[1]", "the place, brought to all cells",
            {"place": Edge("denoiser.text.embed", "denoiser.0.attn[1].v")}, lambda place: place,
        ),
        Variable(
            "here", "denoiser.1.image.mlp", "of each cell, whether it is the one",
            {"asked": Edge("denoiser.0.image.attn[1]", "denoiser.1.image.mlp")}, _here,
        ),
        Variable(
            "shown", "denoiser.2.image.attn[2]", "the thing, brought to the cell that is the one",
            {
                "thing": Edge("denoiser.text.embed", "denoiser.2.attn[2].v"),
                "here": Edge("denoiser.1.image.mlp", "denoiser.2.attn[2].q"),
            },
            _drawn,
        ),
        Variable(
            "answer", "denoiser.image.end", "what is drawn",
            {"shown": Edge("denoiser.2.image.attn[2]", "denoiser.image.end")}, lambda shown: shown,
        ),
        Variable(
            "heard", "denoiser.image.end", "the noise that is taken out",
            {"noise": Edge("denoiser.image.embed", "denoiser.image.end")}, lambda noise: noise,
        ),
    ),
    inputs, judge, ("answer", "heard"),
)  # fmt: skip

SPEC = planted(PLANT, untrained, lambda: None, Recipe, Path(__file__).with_suffix(".md"), "transformer")
