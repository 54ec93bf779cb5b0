"""States as a few concepts in words: python benchmarks/concept_dictionary.py [--scenes 384] [--concepts 16].

Prints the tables of docs/concept-dictionaries.md: what each learner explains of held states and how often the words of
the strongest concept name what is shown, for the decoder of zoo:emoji-llava and the vision tower of zoo:emoji-clip,
trained and untrained, two seeds.
"""

from __future__ import annotations

import argparse

import cutaway
from cutaway.data import render, scenes
from cutaway.methods import concept_dictionary
from cutaway.questions.bank import emoji_bank

SITES = {"zoo:emoji-llava": ("text.3.resid_post", "text.5.resid_post"), "zoo:emoji-clip": ("vision.4.resid_post",)}
SEEDS, BATCH, ASKED = (0, 1), 32, "what is this?"


def main() -> None:
    """Print the tables."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--scenes", type=int, default=384)
    asked.add_argument("--concepts", type=int, default=16)
    given = asked.parse_args()
    drawn = list(scenes("test", given.scenes))
    print("| model | site | learner | explained | words in common | named | another's words |")
    print("|---|---|---|--:|--:|--:|--:|")
    for name, sites in SITES.items():
        for opened in (name, f"{name}@untrained"):
            model = cutaway.load(opened)
            writes = bool(model.family.image_tokens)
            bank = None if writes else emoji_bank(model, ("concept", "background"), progress=False)
            rows = drawn if not writes else [
                model.inputs(image=[[render(one)] for one in part], text=[ASKED] * len(part))
                for part in (drawn[at : at + BATCH] for at in range(0, len(drawn), BATCH))
            ]  # fmt: skip
            for site in sites:
                made = [concept_dictionary(model, rows, scenes=drawn, bank=bank, site=site, concepts=given.concepts,
                                           seed=seed, progress=False) for seed in SEEDS]  # fmt: skip
                for learner in made[0]["learner"].values:
                    cells = [" / ".join(f"{float(one[key].sel(learner=learner)):.2f}" for one in made)
                             for key in ("explained", "overlap", "named", "named_random")]  # fmt: skip
                    print(f"| {opened} | {site} | {learner} | {' | '.join(cells)} |", flush=True)
                if opened == name:
                    first = made[0].concepts().head(5)
                    print("\n".join(f"    {row['active']:.2f} {row['words']}" for _, row in first.iterrows()))


if __name__ == "__main__":
    main()
