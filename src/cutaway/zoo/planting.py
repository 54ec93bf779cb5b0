"""The spec of a model with a planted circuit: made, planted and measured like the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cutaway.model.model import Model
from cutaway.zoo import siit
from cutaway.zoo.evaluate_planted import HELD_OUT, evaluate
from cutaway.zoo.exchange import Exchange
from cutaway.zoo.planted import Plant
from cutaway.zoo.spec import Spec


def planted(
    plant: Plant, start: Callable[[int], Any], processor: Callable[[], Any], recipe: type[siit.Recipe], template: Path,
    part: str = "",
) -> Spec:  # fmt: skip
    """A model of the zoo in which this is planted; `part` of a pipeline is what learns."""

    def lost(module: Any, shipped: Any) -> float:
        """The largest change of a score of 500 inputs."""
        told = [
            Exchange(Model(one, processor()), plant).clean(plant.draw(HELD_OUT, 500))[1] for one in (module, shipped)
        ]
        return (told[0].verdict.scores - told[1].verdict.scores).abs().max().item()

    def train(module: Any, batches: Any, recipe: Any, folder: Path, device: str) -> Any:
        return siit.train(module, processor(), plant, batches, recipe, folder, device, part)

    def measure(module: Any, tools: Any, n: int, told: Any) -> Any:
        return evaluate(plant, module, tools, n, told)

    return Spec(
        plant.name, f"a circuit planted in it: {plant.about}", start=start, processor=processor, recipe=recipe,
        batches=partial(siit.batches, plant), train=train, measure=measure, lost=lost, template=template,
        asked="nothing", edges=tuple(plant.edges),
    )  # fmt: skip
