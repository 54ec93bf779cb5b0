"""A task in the heads: their mean results over prompts with examples, and which of them carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.task_vectors.states import Chance, chosen_sites, mean_states
from cutaway.model.edits import Add, Edit, Set
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.tokens import Positions
from cutaway.model.weights import head_weights
from cutaway.questions.rows import Rows
from cutaway.store.fitted import Fitted, Origin

Place = tuple[str, int]


class FunctionVector(Fitted):
    """Mean results of heads at the end of prompts with examples (`mean`), and what each alone brings (`effect`)."""

    kind: ClassVar[str] = "function_vector"

    def best(self, count: int) -> list[Place]:
        """The heads whose mean result brings the answers most, by site and number, the strongest first."""
        effect = self.tensors["effect"]
        if not 1 <= count <= effect.numel():
            raise MethodError(f"{count} heads", expected=f"1 to {effect.numel()}", do="ask for as many as there are")
        order = effect.flatten().argsort(descending=True)[:count].tolist()
        return [(self.on.sites[at // effect.shape[1]], at % effect.shape[1]) for at in order]

    def some(self, count: int, seed: int = 0) -> list[Place]:
        """As many heads drawn by chance."""
        effect = self.tensors["effect"]
        order = torch.randperm(effect.numel(), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        return [(self.on.sites[at // effect.shape[1]], at % effect.shape[1]) for at in order]

    def replaced(self, heads: Sequence[Place], token: Positions = -1) -> list[Edit]:
        """Put the mean results of heads in the place of their results at the end of another prompt."""
        return [Set(site, self.mean(site, head), token=token, head=head) for site, head in heads]

    def vector(self, model: Model, heads: Sequence[Place]) -> Float[Tensor, "d_model"]:
        """What the mean results of heads add to the residual stream, summed: one vector for the task."""
        self.check(model)
        found = []
        for name, head in heads:
            site = Site.parse(name)
            weights, _ = head_weights(model, site.tower, int(site.layer or 0))
            found.append((self.mean(name, head).to(weights) @ weights[head]).to(model.device))
        return torch.stack(found).sum(0)

    def added(
        self, model: Model, heads: Sequence[Place], site: str, scale: float = 1.0, token: Positions = -1
    ) -> list[Edit]:
        """Add that vector to the residual stream at the end of another prompt."""
        return [Add(site, self.vector(model, heads), scale, token=token)]

    def mean(self, site: str, head: int) -> Float[Tensor, "d_head"]:
        """The mean result of one head."""
        return self.tensors["mean"][self.on.sites.index(site), head]


@torch.no_grad()
def function_vector(
    model: Model, shots: Rows, alone: Inputs, answers: Sequence[int], *, sites: str | Sequence[str] | None = None,
    at: Positions = -1, batch: int = 16, progress: bool = True,
) -> FunctionVector:  # fmt: skip
    """The mean result of every head over prompts with examples, and how much of the task each brings to a prompt alone.

    z_lh = mean over `shots` of the head's result at position `at`; effect_lh = mean over the prompts `alone` of
    p(answer | z of that head there replaced by z_lh) - p(answer). The heads of largest effect carry the task together:
    `replaced` puts their means in (a multimodal task vector), `added` their sum through their output weights (a
    function vector).

    Units: probability. Source: Todd et al. 2023, arXiv 2310.15213 (function vectors; effects in prompts whose examples
    are shuffled, ours in prompts without any); Huang et al. 2024, arXiv 2406.15334 (means replaced, heads chosen by
    learning; here by measured effect).

    What it can NOT tell: what heads do together: one by one they may each bring nothing. A head whose mean result
    carries the answers' commonest word helps without any task; compare with the vector of another task.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> alone = model.inputs(text=["a dog :", "a cat :"])
    >>> found = function_vector(model, ["a dog : red , a cat :"], alone, [45, 46], progress=False)
    >>> len(found.best(3)), found.tensors["effect"].shape
    (3, torch.Size([3, 4]))
    """
    chosen = chosen_sites(model, sites, "attn.z")
    means, count = mean_states(model, shots, chosen, at, batch=batch, progress=progress)
    mean = torch.stack([means[str(site)].to(model.device, model.dtype) for site in chosen])
    cells = [Set(str(site), mean[i, head], token=at, head=head)
             for i, site in enumerate(chosen) for head in range(mean.shape[1])]  # fmt: skip
    swept = model.sweep(alone, cells, Chance(tuple(answers)), progress=progress)
    effect = torch.from_numpy(swept.change.values.mean(1)).view(mean.shape[:2])
    config = {"shots": count, "alone": len(answers), "at": repr(at)}
    return FunctionVector({"mean": mean, "effect": effect}, config, Origin.of(model, *chosen))
