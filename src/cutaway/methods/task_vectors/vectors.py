"""Directions and tasks as vectors: means of states, found once, kept with the model they belong to, put in by edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.task_vectors.states import chosen_sites, mean_states, usual_position
from cutaway.model.edits import Add, Bend, Edit, Project, Set
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.steps import steps_of
from cutaway.model.tokens import Positions
from cutaway.questions.rows import Rows
from cutaway.store.fitted import Fitted, Origin

How = Literal["add", "bend", "out"]
HOWS: Mapping[str, str] = {"add": "added", "bend": "added, the length kept", "out": "projected out"}


def stepped(site: str) -> bool:
    """Whether a vector at this site has one entry for each step of a drawing."""
    return site.startswith("denoiser")


class SteeringVector(Fitted):
    """A direction for each site, by the name of the site; `edits` steers with it."""

    kind: ClassVar[str] = "steering_vector"

    def edits(
        self, scale: float = 1.0, *, how: How = "add", sites: str | Iterable[str] | None = None, **selectors: Any
    ) -> list[Edit]:
        """Steer with it: `add` x + scale v; `bend` the same at the old length; `out` without its part along v.

        `sites` are some of those it was fitted at, by default all; `selectors` are those of any edit, such as
        `token=-1`, or `token=slice(-1, None)` for what is written as well. A denoiser has a direction for each step,
        put in at its step where the prompt is seen (unless `guidance=` says another row).
        """
        if how not in HOWS:
            raise MethodError(f"cannot steer by '{how}'", expected=", ".join(HOWS), do="choose one of these")
        made: list[Edit] = []
        for site in self._sites(sites):
            for vector, where in self._by_step(site, how, selectors):
                if how == "out":
                    made.append(Project(site, vector, **where))
                else:
                    made.append((Add if how == "add" else Bend)(site, vector, scale, **where))
        return made

    def _by_step(self, site: str, how: How, selectors: dict[str, Any]) -> list[tuple[Tensor, dict[str, Any]]]:
        """The direction with its selectors; of a denoiser that of each step."""
        vector = self.tensors[site]
        if not stepped(site):
            return [(vector, selectors)]
        if how != "add" and vector.dim() > 2:
            raise MethodError(
                f"'{site}' is a map, whose channels are not its last axis", expected="`how='add'`",
                do="steer at a `resid_post` of the same block",
            )  # fmt: skip
        chosen = selectors.get("step")
        steps = range(len(vector)) if chosen is None else steps_of(chosen, len(vector))
        return [(vector[at], {"guidance": "cond", **selectors, "step": [at]}) for at in steps]

    @property
    def length(self) -> dict[str, float]:
        """How long the direction is at each site; of a denoiser the mean over steps."""
        values = {name: value.cpu().double() for name, value in self.tensors.items()}
        return {
            name: float(value.flatten(1).norm(dim=1).mean() if stepped(name) else value.norm())
            for name, value in values.items()
        }

    def _sites(self, sites: str | Iterable[str] | None) -> list[str]:
        wanted = [sites] if isinstance(sites, str) else list(self.tensors) if sites is None else list(sites)
        strange = [site for site in wanted if site not in self.tensors]
        if strange:
            raise MethodError(
                f"this {self.kind} has nothing at '{strange[0]}'", expected="a site it was fitted at",
                exists=", ".join(list(self.tensors)[:5]), do="fit one there",
            )  # fmt: skip
        return wanted


class TaskVector(SteeringVector):
    """What a model holds at the end of prompts with examples, for each site; `placed` puts it in."""

    kind: ClassVar[str] = "task_vector"

    def placed(self, sites: str | Iterable[str], token: Positions = -1, **selectors: Any) -> list[Edit]:
        """Put it in the place of the state at the end of another prompt."""
        return [Set(site, self.tensors[site], token=token, **selectors) for site in self._sites(sites)]


@torch.no_grad()
def steering_vector(
    model: Model, positive: Rows, negative: Rows, *, sites: str | Sequence[str] | None = None,
    at: Positions | None = None, batch: int = 16, progress: bool = True,
) -> SteeringVector:  # fmt: skip
    """The direction from one kind of input to another: the difference of their mean states.

    v_s = mean over positive rows and positions of x_s - the same over negative rows, at each site s (by default the
    residual stream after every layer, of the tower of pictures in a model that matches, else of words). Positions `at`
    are, unless told, the last one of a decoder, the class token, else all. Rows are pictures, scenes, texts or Inputs.
    Of a denoiser (rows are drawings) there is a direction for each step, from the guidance row that sees the prompt; at
    the middle of a UNet that is steering in h-space, the same at all places.

    Units: those of the states; `length` tells how long. Source: Turner et al. 2023, arXiv 2308.10248 (one pair, added
    along the prompt), Rimsky et al. 2023, arXiv 2312.06681 (means, at the answer); Arditi et al. 2024, arXiv
    2406.11717 (projecting it out); h-space: Kwon et al. 2022, arXiv 2210.10960, who train what is added, where
    this takes means. We add where the selectors of the edit say, nowhere else.

    What it can NOT tell: that the model uses this direction for the difference (steer and see, against a random one);
    whatever else tells the two kinds apart is in it as well.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> found = steering_vector(model, ["a red dog", "a red cat"], ["a blue dog"], sites="text.1.resid_post",
    ...                         progress=False)
    >>> found
    SteeringVector(text.1.resid_post 32; text.1.resid_post of 'tiny:llama')
    >>> found.edits(2.0, how="bend", token=-1)
    [Bend('text.1.resid_post', <32 float32>, 2.0, token=-1)]
    """
    chosen = chosen_sites(model, sites)
    where = usual_position(model, chosen[0].tower) if at is None else at
    (plus, count), (minus, other) = (
        mean_states(model, rows, chosen, where, batch=batch, progress=progress) for rows in (positive, negative)
    )
    vectors = {name: (plus[name] - minus[name]).to(model.device, model.dtype) for name in plus}
    return SteeringVector(vectors, {"positive": count, "negative": other, "at": repr(where)}, Origin.of(model, *plus))


@torch.no_grad()
def task_vector(
    model: Model, shots: Rows, *, sites: str | Sequence[str] | None = None, at: Positions = -1, batch: int = 16,
    progress: bool = True,
) -> TaskVector:  # fmt: skip
    """What a model holds at the end of prompts that tell a task by examples: its mean over many of them.

    t_s = mean over prompts of x_s at position `at`, at each site s (by default after every layer of the decoder). In
    the place of the state at the end of a prompt without examples (`placed`), it should make the model do the task.

    Units: those of the states. Source: Hendel et al. 2023, arXiv 2310.15916 (one prompt, a dummy query); Luo et al.
    2024, arXiv 2410.22330 (the mean over prompts, between words and pictures).

    What it can NOT tell: that the model makes such a vector to pass the task on; that it can be passed on this way
    does not say that it is. A state that is replaced takes with it all that the prompt itself had put there.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> found = task_vector(model, ["a dog : red , a cat : blue , a bird :"], progress=False)
    >>> found.placed("text.1.resid_post")
    [Set('text.1.resid_post', <32 float32>, token=-1)]
    """
    chosen = chosen_sites(model, sites)
    states, count = mean_states(model, shots, chosen, at, batch=batch, progress=progress)
    states = {name: mean.to(model.device, model.dtype) for name, mean in states.items()}
    return TaskVector(states, {"shots": count, "at": repr(at)}, Origin.of(model, *states))


def paired(
    model: Model, here: Inputs, there: Inputs, sites: Sequence[str], at: Positions | None
) -> dict[str, Float[Tensor, "*d"]]:
    """The direction from some inputs to others, at sites: the difference of their means."""
    return dict(steering_vector(model, there, here, sites=list(sites), at=at, progress=False).tensors)
