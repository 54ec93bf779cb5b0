"""How a dictionary learns, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a dictionary learns: by Adam, at a rate that rises for `warmup` steps and falls over the last share `decay`.

    `price` is λ, which rises over the share `price_warmup` of the steps. `dead`: the weight of the loss of features
    that were not on for `dead_after` steps (TopK and its kin, JumpReLU); `resample`: after how many steps such features
    begin anew (relu, gated; 0: never; not in the last half). `scale`: rows have a mean square of d, all by "one"
    factor, which is folded into the weights, or by "kind" of position, which is kept; "none": as they are. `centre`:
    where the decoder's bias begins, "median", "mean" or "zero". `clip`: the longest gradient; 0: any. `follow`: how
    soon the threshold of `batch_topk` follows a batch, 10 / `steps` at least. `sample`: rows that scales, centre and
    points are taken from.
    """

    steps: int = 2000
    batch: int = 1024
    rate: float = 1e-3
    warmup: int = 50
    decay: float = 0.2
    price: float = 3.0
    price_warmup: float = 0.1
    dead: float = 1 / 32
    dead_after: int = 200
    resample: int = 0
    scale: str = "one"
    centre: str = "median"
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    follow: float = 0.01
    sample: int = 2**14
    seed: int = 0
    save_every: int = 500
    log_every: int = 20

    def rate_at(self, step: int) -> float:
        """The rate of a step."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        falling = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.rate * rising * falling

    def price_at(self, step: int) -> float:
        """λ at a step."""
        return self.price * min(1.0, (step + 1) / max(1.0, self.price_warmup * self.steps))
