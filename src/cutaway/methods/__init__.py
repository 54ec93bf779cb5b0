"""The methods of the taxonomy, a folder a row: `from cutaway.methods import logit_lens` gives the function."""

from cutaway.methods.causal_tracing import activation_patching, attention_knockout, causal_tracing, drawing_tracing
from cutaway.methods.cross_attention import (
    attend_and_excite,
    attention_rollout,
    concept_attention,
    cross_attention,
    head_relevance,
    hide_words,
    prompt_to_prompt,
    prompt_to_prompt_drawings,
    weaken_heads,
)
from cutaway.methods.linear_probing import erase, linear_probing
from cutaway.methods.logit_lens import (
    attention_lens,
    diffusion_lens,
    embedding_bank,
    embedding_lens,
    latent_bank,
    latent_lens,
    logit_lens,
    tuned_lens,
    word_lens,
)
from cutaway.methods.representation_decomposition import (
    logit_decomposition,
    representation_decomposition,
    velocity_decomposition,
)
from cutaway.methods.task_vectors import (
    combined,
    drawing_steering,
    function_vector,
    steering,
    steering_vector,
    task_transfer,
    task_vector,
    weight_vector,
)
from cutaway.methods.text_explanation import head_texts, picture_texts, splice, text_span

__all__ = [
    "activation_patching",
    "attend_and_excite",
    "attention_knockout",
    "attention_lens",
    "attention_rollout",
    "causal_tracing",
    "combined",
    "concept_attention",
    "cross_attention",
    "diffusion_lens",
    "drawing_steering",
    "drawing_tracing",
    "embedding_bank",
    "embedding_lens",
    "erase",
    "function_vector",
    "head_relevance",
    "head_texts",
    "hide_words",
    "latent_bank",
    "latent_lens",
    "linear_probing",
    "logit_decomposition",
    "logit_lens",
    "picture_texts",
    "prompt_to_prompt",
    "prompt_to_prompt_drawings",
    "representation_decomposition",
    "splice",
    "steering",
    "steering_vector",
    "task_transfer",
    "task_vector",
    "text_span",
    "tuned_lens",
    "velocity_decomposition",
    "weaken_heads",
    "weight_vector",
    "word_lens",
]
