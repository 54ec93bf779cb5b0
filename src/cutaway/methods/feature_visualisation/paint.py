"""Pictures as functions of free numbers: pixels, frequencies, or phases under the spectrum of a data set.

    pixel      x = sigmoid(p)
    fourier    x = sigmoid(H F⁻¹(p / max(f, 1/side)^decay))      H: how the colours of the data set go together
    maco       x = clip(m + C F⁻¹(r F(p) / |F(p)|), 0, 1)        r: the mean size of each frequency in the data set

With a `contrast` the first two are x = clip(1/2 + contrast √n y / |y|, 0, 1) of what stands in the sigmoid: pictures
of one length. Of `maco` only phases are free, and, within the mean size, the colour of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.feature_visualisation.spectrum import Spectrum

By = Literal["pixel", "fourier", "maco"]
Free = tuple[Tensor, ...]
Pictures = Float[Tensor, "_ channel y x"]
Dice = torch.Generator | Sequence[torch.Generator]  # of all rows, or of each: then no row depends on the others
WAYS: tuple[By, ...] = ("pixel", "fourier", "maco")
DECAY, FAINT, EDGE = 1.0, 0.1, 0.02


@dataclass(frozen=True, eq=False)
class Paint:
    """One way to make pictures from free numbers, for the size and the colours of a spectrum."""

    by: By
    spectrum: Spectrum
    contrast: float | None = None

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise MethodError(
                f"no pictures are made by '{self.by}'", expected="a parametrisation", exists=", ".join(WAYS)
            )
        if self.contrast is not None and (self.by == "maco" or self.contrast <= 0):
            raise MethodError(
                f"a contrast of {self.contrast} by {self.by}", expected="one above 0, by pixel or fourier",
                do="leave it out: the spectrum of the data set says how strong the picture is",
            )  # fmt: skip

    def begin(self, rows: int, dice: Dice, start: Pictures | None = None) -> Free:
        """Free numbers of as many pictures, by chance or from pictures in [0, 1]."""
        height, width = self.spectrum.shape
        if start is not None:
            return tuple(one.detach().clone().requires_grad_() for one in self._from(start))
        noise = _thrown(torch.randn, (rows, 3, height, width), dice)
        if self.by == "pixel":
            free: Free = (FAINT * noise,)
        elif self.by == "fourier":
            free = (FAINT * torch.view_as_real(torch.fft.rfft2(noise, norm="ortho")),)
        else:
            free = (noise, 0.5 * _thrown(torch.randn, (rows, 3), dice))
        return tuple(one.requires_grad_() for one in free)

    def __call__(self, free: Free) -> Pictures:
        """The pictures, in [0, 1]."""
        if self.by == "maco":
            made = self.spectrum.together(self.phased(*free))
            return made.clamp(0, 1)
        raw = free[0] if self.by == "pixel" else self._mixed(free[0])
        if self.contrast is None:
            return raw.sigmoid()
        length = raw.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-12)
        return (0.5 + self.contrast * raw[0].numel() ** 0.5 * raw / length).clamp(0, 1)

    def phased(self, free: Pictures, whole: Float[Tensor, "n channel"]) -> Pictures:
        """Pictures with the sizes of the spectrum and the phases of others; the mean of each colour is free within it.

        The phases are those of a real picture, so that they are a picture's: what is left of it is r e^{iφ} exactly.
        """
        waves = torch.fft.rfft2(free, norm="ortho")
        size = self.spectrum.size.to(free)
        turned = size * waves / waves.abs().clamp_min(1e-12)
        lit = (size[:, 0, 0] * whole.tanh()).to(turned.dtype)
        first = torch.zeros_like(turned)
        first[..., 0, 0] = lit - turned[..., 0, 0]
        return torch.fft.irfft2(turned + first, s=self.spectrum.shape, norm="ortho")

    @property
    def _faint(self) -> Float[Tensor, "y half"]:
        """What each frequency is divided by."""
        height, width = self.spectrum.shape
        down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
        return (down**2 + across**2).sqrt().clamp_min(1 / max(height, width)) ** DECAY

    def _mixed(self, waves: Float[Tensor, "n channel y half part"]) -> Pictures:
        made = torch.fft.irfft2(
            torch.view_as_complex(waves) / self._faint.to(waves), s=self.spectrum.shape, norm="ortho"
        )
        return torch.einsum("dc,nchw->ndhw", self.spectrum.hues.to(made), made)

    def _from(self, pictures: Pictures) -> Free:
        """The free numbers that make these pictures, as nearly as there are any."""
        if self.by == "maco":
            apart = self.spectrum.apart(pictures)
            size = self.spectrum.size[:, 0, 0].to(apart).clamp_min(1e-12)
            whole = torch.fft.rfft2(apart, norm="ortho")[..., 0, 0].real / size
            return apart, whole.clamp(-0.99, 0.99).atanh()
        raw = pictures - 0.5 if self.contrast is not None else pictures.clamp(EDGE, 1 - EDGE).logit()
        if self.by == "pixel":
            return (raw,)
        unmixed = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(self.spectrum.hues).to(raw), raw)
        waves = torch.fft.rfft2(unmixed, norm="ortho") * self._faint.to(raw)
        return (torch.view_as_real(waves),)


def shaken(
    pictures: Pictures, dice: Dice, *, jitter: float = 0.0, zoom: float = 0.0, noise: float = 0.0
) -> Pictures:  # fmt: skip
    """Each picture moved by up to `jitter` pixels, scaled by up to 1 ± `zoom`, with noise of that spread added.

    What leaves the picture is mirrored at its edge.
    """
    moved = pictures
    if jitter or zoom:
        rows, _, height, width = pictures.shape
        drawn = 2 * _thrown(torch.rand, (rows, 3), dice).to(pictures) - 1
        turn = torch.zeros((rows, 2, 3), dtype=pictures.dtype, device=pictures.device)
        turn[:, 0, 0] = turn[:, 1, 1] = 1 / (1 + zoom * drawn[:, 0])
        turn[:, 0, 2], turn[:, 1, 2] = drawn[:, 1] * 2 * jitter / width, drawn[:, 2] * 2 * jitter / height
        places = torch.nn.functional.affine_grid(turn, list(pictures.shape), align_corners=False)
        moved = torch.nn.functional.grid_sample(
            pictures, places, mode="bilinear", padding_mode="reflection", align_corners=False
        )
    if noise:
        moved = moved + noise * _thrown(torch.randn, tuple(pictures.shape), dice).to(pictures)
    return moved


def _thrown(make: Callable[..., Tensor], shape: tuple[int, ...], dice: Dice) -> Tensor:
    """Random numbers of that shape, of each dice as many rows."""
    if isinstance(dice, torch.Generator):
        return make(shape, generator=dice)
    return torch.cat([make((shape[0] // len(dice), *shape[1:]), generator=one) for one in dice])
