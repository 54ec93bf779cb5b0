"""States inside a model, read in the space of its own output."""

from cutaway.methods.logit_lens.attention_lens import AttentionLens, attention_lens
from cutaway.methods.logit_lens.denoiser_lens import DenoiserLens, denoiser_lens
from cutaway.methods.logit_lens.diffusion_lens import DrawnLayers, diffusion_lens
from cutaway.methods.logit_lens.latent_bank import LatentBank, embedding_bank, latent_bank
from cutaway.methods.logit_lens.latent_lens import LatentLens, embedding_lens, latent_lens
from cutaway.methods.logit_lens.logit_lens import Lens, logit_lens
from cutaway.methods.logit_lens.tuned_lens import TunedLens, tuned_lens
from cutaway.methods.logit_lens.word_lens import WordLens, word_lens

__all__ = [
    "AttentionLens",
    "DenoiserLens",
    "DrawnLayers",
    "LatentBank",
    "LatentLens",
    "Lens",
    "TunedLens",
    "WordLens",
    "attention_lens",
    "denoiser_lens",
    "diffusion_lens",
    "embedding_bank",
    "embedding_lens",
    "latent_bank",
    "latent_lens",
    "logit_lens",
    "tuned_lens",
    "word_lens",
]
