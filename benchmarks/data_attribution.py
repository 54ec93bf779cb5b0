"""Training-data attribution beside dattri and traker: the same numbers, and seconds at equal LDS.

    python benchmarks/data_attribution.py [--items 500] [--subsets 50] [--seed 0]

It needs them beside cutaway: `pip install --no-deps dattri traker tqdm pyyaml`, in an environment of its own. The data
are the handwritten digits that come with scikit-learn. A network of three layers is trained on some of them, and on
halves of these. Printed are, first, how far TRAK's scores of each lie from ours with one projection for all, made here;
then for each tool with its own projection the LDS and the seconds of processor time, on one thread, for features of all
items and scores of all queries: the best of `--runs` behind one that is not counted, nor are loading and training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import cutaway
from cutaway.methods.data_attribution import Projection, data_attribution, lds
from cutaway.methods.data_attribution.features import Projected
from cutaway.model.inputs import Inputs
from cutaway.model.pieces import elsewhere, layers, pieces
from cutaway.questions.training import Items

WIDE = (64, 512, 256, 10)
QUERIES, STEPS, RATE = 100, 60, 2e-3
BATCH = 100


class Net(nn.Module):
    """Digits to classes."""

    def __init__(self, wide: tuple[int, ...] = WIDE) -> None:
        super().__init__()
        parts = [part for a, b in pairwise(wide) for part in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*parts[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        return self.body(x)


@dataclass(frozen=True, eq=False)
class Digits(Items):
    """Digits with their classes."""

    x: Any = None
    y: Any = None

    def __len__(self) -> int:
        return len(self.x)

    def shown(self, at: int) -> tuple[None, str]:
        """Its class."""
        return None, str(int(self.y[at]))

    def on(self, model: Any, measure: Any = "loss") -> Callable[..., Any]:
        """Inputs and the cross-entropy of each."""

        def make(rows: Any, _: int) -> Any:
            y = self.y[list(rows)]
            return Inputs({"x": self.x[list(rows)]}), lambda run: cross_entropy(run.outputs, y, reduction="none")

        return make


def trained(x: Tensor, y: Tensor, seed: int, wide: tuple[int, ...] = WIDE) -> Net:
    """A network after so many steps on all of these."""
    torch.manual_seed(seed)
    net = Net(wide)
    learner = torch.optim.AdamW(net.parameters(), lr=RATE)
    for _ in range(STEPS):
        learner.zero_grad()
        cross_entropy(net(x), y).backward()
        learner.step()
    return net.eval()


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """log p / (1 - p) of the true class of each row."""
    own = torch.arange(logits.shape[-1]) == y[:, None]
    return (logits * own).sum(-1) - logits.masked_fill(own, float("-inf")).logsumexp(-1)


def timed(make: Callable[[], ndarray], runs: int) -> tuple[ndarray, float]:
    """What it makes, and the least processor time."""
    found, seconds = make(), []
    for _ in range(runs):
        started = time.process_time()
        found = make()
        seconds.append(time.process_time() - started)
    return found, min(seconds)


def ours(net: Net, x: Tensor, y: Tensor, z: Tensor, w: Tensor, **how: Any) -> ndarray:
    """Scores (query, item) by this package: of the margin of each query."""
    model, train = cutaway.load(net), Digits(x=x, y=y)
    found = data_attribution(
        model, train, Inputs({"x": z}), lambda run: margin(run.outputs, w), batch=BATCH, progress=False, **how
    )
    return np.asarray(found["scores"].values)


def by_traker(net: Net, x: Tensor, y: Tensor, z: Tensor, w: Tensor, size: int, given: Tensor | None = None) -> ndarray:
    """The same by traker, with its own projection or a matrix that is given."""
    from trak import TRAKer
    from trak.projectors import AbstractProjector, BasicProjector, ProjectionType

    count = sum(one.numel() for one in net.parameters())
    projector: Any = BasicProjector(count, size, 0, ProjectionType.rademacher, torch.device("cpu"))
    if given is not None:

        class Ours(AbstractProjector):
            def __init__(self) -> None:
                super().__init__(count, size, 0, ProjectionType.normal, torch.device("cpu"))

            def project(self, grads: Any, model_id: int) -> Tensor:
                flat = grads if isinstance(grads, Tensor) else torch.cat([g.flatten(1) for g in grads.values()], 1)
                return flat @ given

            def free_memory(self) -> None:
                return None

        projector = Ours()
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            net, "image_classification", len(x), save_dir=folder, device="cpu", projector=projector, proj_dim=size,
            use_half_precision=False, logging_level=50,
        )  # fmt: skip
        traker.load_checkpoint(net.state_dict(), model_id=0)
        for at in range(0, len(x), BATCH):
            batch = [x[at : at + BATCH], y[at : at + BATCH]]
            traker.featurize(batch=batch, num_samples=len(batch[0]))
        traker.finalize_features()
        traker.start_scoring_checkpoint("queries", net.state_dict(), model_id=0, num_targets=len(z))
        for at in range(0, len(z), BATCH):
            batch = [z[at : at + BATCH], w[at : at + BATCH]]
            traker.score(batch=batch, num_samples=len(batch[0]))
        return np.asarray(traker.finalize_scores("queries")).T


def by_dattri(net: Net, x: Tensor, y: Tensor, z: Tensor, w: Tensor, size: int, given: Tensor | None = None) -> ndarray:
    """The same by dattri."""
    import dattri.algorithm.trak as theirs
    from dattri.task import AttributionTask

    def odds(params: Any, data: Any) -> Tensor:
        image, label = data
        return -margin(torch.func.functional_call(net, params, image[None]), label[None])[0]

    def share(params: Any, data: Any) -> Tensor:
        image, label = data
        return torch.exp(-cross_entropy(torch.func.functional_call(net, params, image[None]), label[None]))

    before = theirs.random_project
    if given is not None:
        theirs.random_project = lambda *_, **__: lambda flat, ensemble_id=0: flat @ given
    try:
        task = AttributionTask(loss_func=odds, model=net, checkpoints=net.state_dict())
        trak = theirs.TRAKAttributor(task, share, projector_kwargs={"proj_dim": size, "device": "cpu"})
        train, test = (DataLoader(TensorDataset(*both), BATCH) for both in ((x, y), (z, w)))
        trak.cache(train)
        return np.asarray(trak.attribute(test).detach()).T
    finally:
        theirs.random_project = before


def dense(net: Net, size: int) -> Tensor:
    """Our dense projection in the order in which torch names weights."""
    model = cutaway.load(net)
    chosen, found = pieces(model), []
    made, every = Projected(Projection("dense", size), chosen), layers(model.engine)
    named = {one.layer: one for one in chosen}
    for name in every:
        rows, columns = named[name].shape
        each = made._dense(named[name], torch.eye(rows * columns)).unflatten(0, (rows, columns))
        found += [each[:, :-1].flatten(0, 1), each[:, -1]]
    return torch.cat(found)


def apart(one: ndarray, other: ndarray) -> float:
    """The largest difference of two tables of scores after each is divided by its length, as a share of the largest."""
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    return float(np.abs(one - other).max() / np.abs(one).max())


def ways(net: Net, x: Tensor, y: Tensor, z: Tensor, w: Tensor) -> dict[str, Callable[[], ndarray]]:
    """Each tool and method, by what the table calls it."""
    wide: dict[str, Any] = {"kind": "dense", "size": 256}
    last = pieces(cutaway.load(net), "body.4")
    others = [elsewhere(cutaway.load(net), last, seed=seed) for seed in range(3)]
    return {
        "traker, TRAK, 256 numbers": lambda: by_traker(net, x, y, z, w, 256),
        "dattri, TRAK, 256 numbers": lambda: by_dattri(net, x, y, z, w, 256),
        "ours, trak, dense, 256 numbers, no damping": lambda: ours(net, x, y, z, w, damping=0.0, **wide),
        "ours, trak, dense, 256 numbers": lambda: ours(net, x, y, z, w, **wide),
        "ours, trak, 8 × 8 a layer": lambda: ours(net, x, y, z, w),
        "ours, trak, 16 × 16 a layer": lambda: ours(net, x, y, z, w, size=16),
        "ours, trak, 8 × 8, last layer alone (2 570 weights)": lambda: ours(net, x, y, z, w, weights=last),
        **{
            f"ours, trak, 8 × 8, as many weights elsewhere, draw {at}": partial(ours, net, x, y, z, w, weights=one)
            for at, one in enumerate(others)
        },
        "ours, logra, 16 × 16 a layer": lambda: ours(net, x, y, z, w, method="logra", size=16),
        "ours, ekfac, 32 × 32 a layer": lambda: ours(net, x, y, z, w, method="ekfac", size=32),
        "ours, datainf, 8 columns a layer": lambda: ours(net, x, y, z, w, method="datainf"),
        "ours, dot, 16 × 16 a layer": lambda: ours(net, x, y, z, w, method="dot", size=16),
        "ours, cosine, 16 × 16 a layer": lambda: ours(net, x, y, z, w, method="cosine", size=16),
    }


def main() -> None:
    """Print both tables."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("items", 500), ("subsets", 50), ("seed", 0), ("runs", 1)):
        asked.add_argument(f"--{name}", type=int, default=usual)
    told = asked.parse_args()
    torch.set_num_threads(1)
    dice = np.random.default_rng(told.seed)
    digits = load_digits()
    order = dice.permutation(len(digits.data))
    x = torch.tensor(digits.data[order] / 16, dtype=torch.float32)
    y = torch.tensor(digits.target[order])
    z, w = x[told.items : told.items + QUERIES], y[told.items : told.items + QUERIES]
    x, y = x[: told.items], y[: told.items]

    small = trained(x, y, told.seed, (64, 32, 10))
    given = dense(small, 256)
    mine = ours(small, x, y, z, w, kind="dense", size=256, damping=0.0)
    print("| one network, one projection of 2 410 weights to 256 numbers | largest difference |")
    print("|---|---|")
    print(f"| traker | {apart(mine, by_traker(small, x, y, z, w, 256, given)):.1e} |")
    print(f"| dattri | {apart(mine, by_dattri(small, x, y, z, w, 256, given)):.1e} |\n")

    net = trained(x, y, told.seed)
    kept = np.zeros((told.subsets, told.items), bool)
    outcome = np.zeros((told.subsets, QUERIES))
    for at in range(told.subsets):
        kept[at, dice.permutation(told.items)[: told.items // 2]] = True
        half = trained(x[kept[at]], y[kept[at]], told.seed)
        with torch.no_grad():
            outcome[at] = margin(half(z), w)
    print(f"| scores of {told.items} items for {QUERIES} queries | LDS | by chance | seconds |", flush=True)
    print("|---|---|---|---|")
    tools = ways(net, x, y, z, w)
    for name, make in tools.items():
        scores, seconds = timed(make, told.runs)
        chance = lds(np.random.default_rng(1).permuted(scores, axis=1), kept, outcome)
        print(f"| {name} | {lds(scores, kept, outcome).mean():.3f} | {chance.mean():.3f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
