"""How fast dictionaries learn: a step of training of cutaway beside one of SAELens, and that both read the same.

python benchmarks/dictionaries.py [--json FILE] [--rounds N] [--threads N] [--quick] [--only NAME …] [--agree]

Rows are few of many known directions with noise, scaled to a mean square of d. Each dictionary takes 20 steps, and its
weights are given to SAELens, so that both go on from the same place and find the same loss, which is checked. Where
features cost something, many are on at the beginning and few later, and few are sooner done: so these are timed twice,
as they are then, and with biases at which 1 in 80 is on. A call is four steps: loss, gradients, clipping, Adam,
counters; the rows are cut before. `WITH=sae-lens benchmarks/peers.sh FOLDER` makes an environment with SAELens.
`--agree` measures what the two make of the same weights instead, written by one and read by the other.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import torch
from timing import QUICK, Contestant, Race, compete, timed

from cutaway.methods.sparse_autoencoders.batch import Price
from cutaway.methods.sparse_autoencoders.feeding import Fed, feed_of
from cutaway.methods.sparse_autoencoders.learning import Learning
from cutaway.methods.sparse_autoencoders.reading import Rows, before
from cutaway.methods.sparse_autoencoders.recipe import Recipe
from cutaway.methods.sparse_autoencoders.shape import shaped
from cutaway.methods.sparse_autoencoders.stepping import judged

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
try:
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.training.sae_trainer import SAETrainer
except ImportError:
    sae_lens = None

GOAL, STEPS = 0.5, 4
MISSING = "SAELens is not installed: WITH=sae-lens benchmarks/peers.sh .venv-saelens"
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("standard", {"l1_coefficient": 3.0}),
    "topk": ("topk", {"rescale_acts_by_decoder_norm": False}),
    "batch_topk": ("batchtopk", {"rescale_acts_by_decoder_norm": False}),
    "matryoshka": ("matryoshka_batchtopk", {"rescale_acts_by_decoder_norm": False}),
    "jumprelu": ("jumprelu", {"l0_coefficient": 8.0}),
    "gated": ("gated", {"l1_coefficient": 6.0}),
}
PRICE = {"relu": 3.0, "gated": 6.0, "jumprelu": 8.0}
FIRST, FEW = 20, 1 / 80  # steps before the race; the share of features that is on later


def rows(count: int, d: int, many: int, k: int) -> torch.Tensor:
    """Rows that are `k` of `many` directions each, and noise."""
    dice = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(many, d, generator=dice), dim=1)
    made = torch.randn(count, d, generator=dice) * 0.03
    for start in range(0, count, 1024):
        part = made[start : start + 1024]
        on = torch.randint(many, (len(part), k), generator=dice)
        size = torch.rand(len(part), k, generator=dice) + 0.5
        part += (truth[on] * size[:, :, None]).sum(1)
    return made * (d / made.square().sum(1).mean()).sqrt()


def ours(name: str, x: torch.Tensor, width: int, k: int, batch: int, few: bool) -> Learning:
    """A training that has some steps behind it; with biases at which `few` features are on."""
    recipe = Recipe(
        steps=10**6, batch=batch, scale="none", price=PRICE.get(name, 0.0), price_warmup=1e-9, dead_after=1000,
        decay=1e-9,
    )  # fmt: skip
    shape = shaped(name, width, k=k)
    made = Learning(feed_of(x, ("text.0.resid_post",), None), shape, recipe, ("text.0.resid_post",), None)
    made.begin(None)
    for done in made.steps(None):
        if done >= FIRST:
            break
    if few:
        u = before(made.w, shape, Rows(x[:256]), True)
        made.w["encoder_bias"] -= u.flatten()[::7].kthvalue(int(u.numel() / 7 * (1 - FEW))).values
    return made


def theirs(name: str, mine: Learning, batch: int, **more: Any) -> Any:
    """A trainer of SAELens with the same weights."""
    kind, options = THEIRS[name]
    options = {**options, **more}
    shape, d = mine.shape, mine.w["encoder"].shape[1]
    if shape.sparse:
        options["k"] = shape.k
    if shape.nested:
        options["matryoshka_widths"] = list(shape.nested)
    cls, config = get_sae_training_class(kind)
    made = cls(config(d_in=d, d_sae=shape.width, **options))
    names = {"W_enc": "encoder", "W_dec": "decoder", "b_dec": "decoder_bias", "b_enc": "encoder_bias"}
    if name == "gated":
        names = {**names, "b_gate": "encoder_bias", "b_mag": "magnitude_bias", "r_mag": "log_gain"}
        del names["b_enc"]
    with torch.no_grad():
        for their, my in names.items():
            value = mine.w[my].T if their == "W_enc" else mine.w[my]
            getattr(made, their).copy_(value)
        if name == "jumprelu":
            made.threshold.copy_(mine.w["log_threshold"].exp())
    told = SAETrainerConfig(total_training_samples=10**12, train_batch_size_samples=batch, lr=1e-3, lr_end=1e-4)
    return SAETrainer(told, made, iter(()))


def steps_of(mine: Learning, parts: list[torch.Tensor]) -> Callable[[], Any]:
    """Four steps of ours."""
    feds = [Fed(part) for part in parts]

    def run() -> None:
        for fed in feds:
            mine.step(fed)
            mine.done += 1

    return run


def steps_of_theirs(trainer: Any, parts: list[torch.Tensor]) -> Callable[[], Any]:
    """Four steps of theirs."""

    def run() -> None:
        with torch.enable_grad():
            for part in parts:
                trainer.step(part)
                trainer.n_training_steps += 1

    return run


def check(trainer: Any, mine: Learning, x: torch.Tensor) -> None:
    """Both must find the same loss before anyone is timed."""
    price = Price(mine.recipe.price_at(mine.done))
    here = judged(mine.w, mine.shape, Rows(x), x, price, centred=True).loss
    told = TrainStepInput(x, trainer.get_coefficients(), None, 0, False)
    there = float(trainer.sae.training_forward_pass(told).loss.detach())
    assert abs(here - there) < 1e-3 * abs(there), f"a loss of {here} here, of {there} there"


def races(given: Any) -> Iterator[Race]:
    """One for each architecture and size."""
    quick, rounds = given.quick, QUICK if given.quick else given.rounds
    d, width, k, batch = (64, 512, 8, 256) if quick else (given.d, given.width, 32, 2048)
    x = rows(batch * 16, d, width, k // 2)
    parts = [x[at * batch : (at + 1) * batch] for at in range(STEPS)]
    for name in given.only:
        for few in (False, True) if name in PRICE else (False,):
            mine = ours(name, x, width, k, batch, few)
            on = sum(mine.step(Fed(parts[0])).fired).item() / batch
            title = f"{name}: {d} → {width}, {on:.0f} features on a row, {STEPS} x {batch} rows"
            yield (
                title,
                against(name, mine, parts) if sae_lens else [Contestant("cutaway", steps_of(mine, parts))],
                rounds,
            )


def against(name: str, mine: Learning, parts: list[torch.Tensor]) -> list[Contestant]:
    """SAELens, in its ways, and cutaway."""
    ways: list[dict[str, Any]] = [{}, {"use_sparse_activations": True}] if name == "topk" else [{}]
    found = []
    for more in ways:
        trainer = theirs(name, mine, len(parts[0]), **more)
        check(trainer, mine, parts[0])
        found.append(Contestant(", ".join(["SAELens", *more]), steps_of_theirs(trainer, parts)))
    return [*found, Contestant("cutaway", steps_of(mine, parts), GOAL)]


# --- what both make of the same weights -------------------------------------------------------------------------------


def agree() -> None:
    """The largest difference of features and of what they stand for, for each architecture, both ways."""
    from cutaway.methods.sparse_autoencoders.saelens import read, write

    print("| architecture | written by | features | decoded |\n|---|---|---|---|")
    for name, (made, x) in sorted(examples().items()):
        with tempfile.TemporaryDirectory() as folder:
            path = write(made, Path(folder) / "kept")
            there = sae_lens.SAE.load_from_disk(path)
            back = Path(folder) / "again"
            there.save_model(back)
            again = read(back)
            with torch.no_grad():
                f, g, h = made.encode(x), there.encode(x), again.encode(x)
                skip = x @ there.W_skip.T if hasattr(there, "W_skip") else 0
                apart = [(f - g).abs().max(), (made.decode(f, x) - there.decode(g) - skip).abs().max()]
                again_apart = [(h - g).abs().max(), (again.decode(h, x) - there.decode(g) - skip).abs().max()]
        print(f"| {name} | cutaway | {apart[0]:.1e} | {apart[1]:.1e} |")
        print(f"| {name} | SAELens | {again_apart[0]:.1e} | {again_apart[1]:.1e} |")


def examples() -> dict[str, Any]:
    """A dictionary of each kind with random weights, and rows for it."""
    from cutaway.methods.sparse_autoencoders.beginning import untrained

    x, found = torch.randn(64, 96), {}
    for name in THEIRS:
        found[name] = perturbed(untrained(name, "text.3.resid_post", 96, width=384, k=16)), x
    for name, more in (("transcoder", {}), ("skip transcoder", {"skip": True}), ("jumprelu transcoder", {})):
        kind = "jumprelu" if "jumprelu" in name else "relu"
        made = untrained(kind, "text.3.mlp.pre", 96, target="text.3.mlp.out", d_out=64, width=384, **more)
        found[name] = perturbed(made), x
    return found


def perturbed(made: Any) -> Any:
    """The same with every number of it moved by chance, so that no bias is zero."""
    dice = torch.Generator().manual_seed(1)
    tensors = {
        name: value + 0.1 * torch.rand(value.shape, generator=dice) if value.is_floating_point() else value
        for name, value in made.tensors.items()
    }
    return type(made)(tensors, made.config, made.on)


if __name__ == "__main__":
    asked = timed(
        __doc__ or "", 5, "small dictionaries",         d=(256, "numbers a row"), width=(4096, "features"),
        only=(list(THEIRS), "these architectures"), agree=(False, "hold features against SAELens instead"),
    ).parse_args()  # fmt: skip
    if asked.agree:
        agree() if sae_lens else print(MISSING)
    else:
        compete(asked, races(asked), *([] if sae_lens else [MISSING]))
