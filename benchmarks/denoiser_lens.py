"""What each block of `zoo:emoji-mmdit` would draw if it were the last: the tables of docs/lenses.md.

python benchmarks/denoiser_lens.py [--many 8] [--seeds 0 1] [--untrained]

Prompts of one thing are drawn in 20 steps, and at four of these every block is read at the denoiser's own end
(`denoiser_lens`): how far it is from the prediction, beside states of other patches, and the probability of the thing
and of the background, in the eyes of `zoo:emoji-judge`, in the picture that it would become.
"""

from __future__ import annotations

import numpy as np
import torch
from timing import BEFORE, seeded

import cutaway
from cutaway.data.prompts import claims_of
from cutaway.methods import denoiser_lens
from cutaway.questions.judged import prompts_apart
from cutaway.zoo import emoji_judge
from cutaway.zoo.evaluate_drawn import GUIDANCE, STEPS
from cutaway.zoo.judging import look

READ = (0, 2, 5, 10)


def main() -> None:
    """Print one table a seed."""
    given = seeded(__doc__, 8, "prompts", untrained=BEFORE).parse_args()
    name = "zoo:emoji-mmdit" + ("@untrained" if given.untrained else "")
    model = cutaway.load(name)
    for seed in given.seeds:
        texts, _, _ = prompts_apart("thing", given.many, seed=seed)
        made = np.stack([_numbers(model, text, seed * 10_000 + at) for at, text in enumerate(texts)])
        print(f"\n{name}, seed {seed}, {len(texts)} prompts, steps {READ}: {texts[0]!r}, …")
        for what, values in zip(("far", "other patches", "thing", "background"), made.mean(0), strict=True):
            print(what)
            for layer, row in enumerate(values, -1):
                print(
                    f"  {'enters' if layer < 0 else layer:>6}  " + "  ".join(f"{value:5.2f}" for value in row),
                    flush=True,
                )


@torch.no_grad()
def _numbers(model: cutaway.Model, text: str, seed: int) -> np.ndarray:
    """Of one drawing: (number, layer, step)."""
    inputs = model.inputs(prompt=text, seed=seed, steps=STEPS, guidance=GUIDANCE, length=0)
    found = denoiser_lens(model, inputs, steps=READ, seed=seed, progress=False)
    frames = torch.from_numpy(found["forming"].values).flatten(0, 1).float().movedim(-1, 1)
    seen, shape = look(emoji_judge.judge(), frames / 127.5 - 1), found["forming"].shape[:2]
    judged = [seen.holds(claim).reshape(shape).T.numpy() for claim in claims_of(text)[:2]]
    return np.stack([*(found[name].isel(picture=0).values.T for name in ("far", "random")), *judged])


if __name__ == "__main__":
    main()
