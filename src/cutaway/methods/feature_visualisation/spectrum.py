"""What pictures of a data set have in common: the mean colour, how colours go together, the size of each frequency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError

LEAST = 1e-6  # of a variance of colours, so that a data set of one colour has an inverse too


@dataclass(frozen=True, eq=False)
class Spectrum:
    """`mean` and `colour` of the pixels (the symmetric root of their covariance), and `size`, the mean |F| of each
    frequency of pictures whose colours were taken apart, z = colour⁻¹ (x - mean).

    `size` is that of `torch.fft.rfft2` with norm "ortho", which does not say whether the `width` is even.
    """

    mean: Float[Tensor, "channel"]
    colour: Float[Tensor, "channel channel"]
    size: Float[Tensor, "channel y half"]
    width: int

    @classmethod
    def of(cls, pictures: Float[Tensor, "n channel y x"]) -> Spectrum:
        """Of pictures in [0, 1].

        >>> Spectrum.of(torch.rand(4, 3, 8, 8)).size.shape
        torch.Size([3, 8, 5])
        """
        if len(pictures) < 2:
            raise MethodError(
                f"{len(pictures)} pictures have no spectrum", expected="two at least, better some hundreds",
                do="give more pictures",
            )  # fmt: skip
        flat = pictures.movedim(1, 0).flatten(1)
        values, vectors = torch.linalg.eigh(torch.cov(flat))
        root = vectors @ torch.diag(values.clamp_min(LEAST).sqrt()) @ vectors.T
        apart = _mixed(torch.linalg.inv(root), pictures - flat.mean(1)[:, None, None])
        return cls(flat.mean(1), root, torch.fft.rfft2(apart, norm="ortho").abs().mean(0), pictures.shape[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the pictures."""
        return self.size.shape[1], self.width

    def apart(self, pictures: Float[Tensor, "n channel y x"]) -> Float[Tensor, "n channel y x"]:
        """Colours taken apart: z."""
        return _mixed(torch.linalg.inv(self.colour), pictures - self.mean.to(pictures)[:, None, None])

    def together(self, apart: Float[Tensor, "n channel y x"]) -> Float[Tensor, "n channel y x"]:
        """The inverse: mean + colour z."""
        return _mixed(self.colour, apart) + self.mean.to(apart)[:, None, None]

    @property
    def hues(self) -> Float[Tensor, "channel channel"]:
        """How colours go together, without how far they are spread: the colour matrix over its largest row."""
        return self.colour / self.colour.norm(dim=1).max()


def _mixed(
    colours: Float[Tensor, "channel channel"], pictures: Float[Tensor, "n channel y x"]
) -> Float[Tensor, "n channel y x"]:  # fmt: skip
    """Each pixel by a matrix of colours."""
    return torch.einsum("dc,nchw->ndhw", colours.to(pictures), pictures)
