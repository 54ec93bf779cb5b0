"""Steering of a drawing: the difference of what two prompts make of it, put in, beside random directions."""

from __future__ import annotations

from collections.abc import Sequence

from cutaway.methods.task_vectors.states import chosen_sites
from cutaway.methods.task_vectors.steering import Steering, steering
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.questions.judged import number_of
from cutaway.questions.pairs import same_drawing

PLACES = 3  # sites, evenly


def drawing_steering(
    model: Model, inputs: Inputs, counterfactual: Inputs, *, sites: str | Sequence[str] | None = None,
    alphas: Sequence[float] = (1.0, 2.0, 4.0), draws: int = 2, seed: int = 0, progress: bool = True,
) -> Steering:  # fmt: skip
    """Steer a drawing towards another prompt, by the difference of mean states at each step, at one site after another.

    x_t <- x_t + alpha v_t at all places, where the prompt is seen, v_t the mean state of the `counterfactual` drawing
    at step t less that of this one, from the same noise. share = (m(alpha) - m) / (m_counterfactual - m), m the judge's
    probability of what the counterfactual prompt alone asks for, else how far the picture is from that drawing
    (`questions.judged`). `random_…` are the same for `draws` random directions as long at each step.

    Units: shares, the number's own. Source: as `steering`; of denoisers Kwon et al. 2023, arXiv 2210.10960 (h-space),
    who train the direction and put it in the middle of the UNet. MethodError for drawings that differ in more than
    prompts.
    What it can NOT tell: that a thing has no direction where this one draws none: it is the same at all places, and a
    thing has one place. The vector is found in the drawing that it is compared with; `steering` takes one from others.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> both = [model.inputs(prompt=one, seed=0, steps=2) for one in ("a red dog", "a blue dog")]
    >>> found = drawing_steering(model, *both, sites="denoiser.8.resid_post", alphas=(1.0,), progress=False)
    >>> abs(float(found["share"].sel(alpha=0.0).squeeze()))
    0.0
    """
    same_drawing(inputs, counterfactual)
    blocks = [str(site) for site in model.sites
              if (site.tower, site.part) == ("denoiser", "resid_post") and site.stream != "text"]  # fmt: skip
    chosen = [str(site) for site in chosen_sites(model, sites or blocks)]
    if sites is None and len(chosen) > PLACES:
        chosen = [chosen[round(at * (len(chosen) - 1) / (PLACES - 1))] for at in range(PLACES)]
    return steering(
        model, inputs, counterfactual, number_of(model, counterfactual, inputs), sites=chosen, alphas=alphas,
        ways=("add",), draws=draws, seed=seed, progress=progress,
    )  # fmt: skip
