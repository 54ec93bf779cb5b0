"""Units of the three families against masks: python benchmarks/dissection.py [--scenes 512] [--part masks …].

Prints the tables of docs/neurons.md: what network dissection labels in trained and untrained models beside shuffled
pictures and random directions, how descriptions hold when they are judged by drawing, by the five similarities and by
formulas, what neurons write, which are multimodal, how far second-order effects are the exact ones,
and which words the heads of denoisers write.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import cutaway
from cutaway import data, questions
from cutaway.data.prompts import DRAWINGS
from cutaway.methods import description_scores, drawing_heads, network_dissection, neuron_descriptions
from cutaway.methods.network_dissection.clip_dissect import clip_dissect
from cutaway.methods.network_dissection.compositions import composition
from cutaway.methods.network_dissection.concept_masks import KINDS, Concepts, concepts_in
from cutaway.methods.network_dissection.cosy import cosy
from cutaway.methods.network_dissection.similarities import SIMILARITIES, similarities
from cutaway.methods.network_dissection.unit_maps import Posed, unit_vectors
from cutaway.methods.neuron_descriptions.multimodal import multimodal_units
from cutaway.methods.neuron_descriptions.second_order import second_order
from cutaway.questions.bank import emoji_bank, emoji_phrases

SITES = {
    "zoo:emoji-clip": "vision.4.mlp.post", "zoo:emoji-llava": "text.3.mlp.post", "zoo:emoji-sd": "denoiser.14.mlp.post",
}  # fmt: skip
SEEDS = (0, 1)


def scenes(name: str, many: int, seed: int) -> list[data.Scene]:
    """What each model was trained to see."""
    world = DRAWINGS if name.startswith(("zoo:emoji-sd", "zoo:emoji-mmdit")) else data.World()
    return list(data.scenes("test", many, seed, world))


def masks(many: int) -> None:
    """Network dissection, trained and untrained, two draws of scenes."""
    print(f"\n## IoU with masks, {many} scenes, the strongest 0.5 % of patches")
    print("| model | site | seed | labelled | shuffled | directions | above the null | directions | best IoU |")
    for name, site in SITES.items():
        for opened in (name, f"{name}@untrained"):
            for seed in SEEDS:
                drawn = scenes(name, many, seed)
                written = 0 if "sd" in name else 4
                model = cutaway.load(opened)
                found = network_dissection(model, drawn, site=site, seed=seed, written=written, progress=False)
                rows = found.shares().set_index(["share", "kind"]).round(3)
                columns = ("labelled", "labelled_null", "labelled_random", "beyond", "beyond_random", "best")
                one = [f"{rows.loc[(0.005, 'any')][name]:.3g}" for name in columns]
                print(f"| {opened} | {site} | {seed} | {' | '.join(one)} |")
                kinds = rows.loc[0.005].drop("any").iterrows()
                said = [f"{kind} {row['beyond']:.2f} ({row['beyond_random']:.2f})" for kind, row in kinds]
                print(f"  above the null by kind (directions): {', '.join(said)}")
                best = found.best().head(5).to_dict("records")
                print("  best:", ", ".join(f"{row['unit']} {row['concept']} {row['iou']:.2f}" for row in best))


def judged(many: int) -> None:
    """Descriptions by masks, judged in other ways."""
    print("\n## The 32 best labels of each site, judged: drawn concepts (CoSy), five similarities, formulas")
    for name, site in SITES.items():
        for opened in (name, f"{name}@untrained"):
            for seed in SEEDS:
                model, drawn = cutaway.load(opened), scenes(name, many, seed)
                place = model.sites.one(site)
                kinds = KINDS[1:]  # parts are in every picture
                found = network_dissection(
                    model, drawn, site=site, kinds=kinds, written=0, shuffles=2, directions=8, progress=False
                )  # fmt: skip
                concepts = concepts_in(drawn, kinds=kinds)
                best = found.best().head(32)
                names = [concepts.names[concepts.labels.index(label)] for label in best["concept"]]
                made = cosy(model, place, best["unit"].tolist(), names, many=16, seed=seed, progress=False,
                            world=DRAWINGS if "sd" in name else None)  # fmt: skip
                auc, mad = (f"{np.nanmean(one):.2f}" for one in (made.auc, made.mad))
                others = [f"{np.nanmean(one):.2f}" for one in (made.auc_random, made.mad_random)]
                print(f"{opened} seed {seed}: AUC {auc} (another's label {others[0]}), MAD {mad} ({others[1]})")
                units = unit_vectors(model, drawn, place, Posed(), progress=False).numpy()
                _five(units, concepts, drawn, best, seed)


def _five(units: np.ndarray, concepts: Concepts, drawn: list[data.Scene], best: object, seed: int) -> None:
    present = concepts.present(drawn)
    made = similarities(units.astype(float), present)
    shuffled = similarities(units[np.random.default_rng(seed).permutation(len(units))].astype(float), present)
    said = [f"{name} {float(made[name].max('concept').mean()):.2f} ({float(shuffled[name].max('concept').mean()):.2f})"
            for name in SIMILARITIES]  # fmt: skip
    print(f"  best concept of a unit by picture, mean over units (shuffled): {', '.join(said)}")
    formulas = [composition(units[:, one].astype(float), present, concepts.labels, length=3, beam=6, seed=seed)
                for one in best["unit"].head(8)]  # type: ignore[index]  # fmt: skip
    columns = ("fitted", "held", "single", "null")
    means = {name: float(np.mean([getattr(one, name) for one in formulas])) for name in columns}
    print("  formulas of up to 3 concepts, IoU: " + ", ".join(f"{name} {value:.2f}" for name, value in means.items()))
    print(f"  {formulas[0].text}; {formulas[1].text}")


def scored(many: int) -> None:
    """Descriptions of units that were not chosen, by three describers, on scenes kept apart."""
    print("\n## 48 units by chance: descriptions on the other half of the scenes, and by 16 drawn pictures")
    kinds = ("pearson", "auprc", "iou", "beyond", "drawn")
    print(f"| model | describer | labels | {' | '.join(kinds)} |")
    for name, site in SITES.items():
        for opened in (name, f"{name}@untrained"):
            made = [
                description_scores(cutaway.load(opened), scenes(name, many, seed), site=site, many=48, seed=seed,
                                   progress=False).table().set_index("describer")
                for seed in SEEDS
            ]  # fmt: skip
            for describer in made[0].index:
                rows = [one.loc[describer] for one in made]
                said = [" / ".join(f"{row[kind]:.2f}" for row in rows) for kind in kinds]
                said = [f"{one} ({' / '.join(f'{row[other]:.2f}' for row in rows)})"
                        if (other := f"{kind}, others") in rows[0] else one
                        for kind, one in zip(kinds, said, strict=True)]  # fmt: skip
                labels = " / ".join(str(row["labels"]) for row in rows)
                print(f"| {opened} | {describer} | {labels} | {' | '.join(said)} |", flush=True)


def named(many: int) -> None:
    """Texts of a CLIP for units of all families."""
    print("\n## CLIP-Dissect: share of units whose best text is above the 99th percentile of shuffled ones")
    clip = cutaway.load("zoo:emoji-clip")
    texts = [text for topic in ("concept", "background", "artist") for text in emoji_phrases((topic,))[topic]]
    for name, site in SITES.items():
        for opened in (name, f"{name}@untrained"):
            said = []
            for seed in SEEDS:
                model, drawn = cutaway.load(opened), scenes(name, many, seed)
                units = unit_vectors(model, drawn, model.sites.one(site), Posed(), progress=False)
                found = clip_dissect(units, clip, drawn, texts, top=20, sharp=30.0, seed=seed, progress=False)
                best = found.scores.amax(1)
                said.append(f"{float((best > found.null.quantile(0.99)).double().mean()):.2f}")
            order = best.argsort(descending=True)[:4]
            print(f"{opened}: {', '.join(said)}; {', '.join(f'{int(at)} {found.texts[at]}' for at in order)}")


def described(many: int) -> None:
    """Write vectors, entropies, ablation."""
    print("\n## Descriptions of the 16 units that move an answer most")
    for name in ("zoo:emoji-clip", "zoo:emoji-llava"):
        for opened in (name, f"{name}@untrained"):
            for seed in SEEDS:
                model, drawn = cutaway.load(opened), scenes(name, many, seed)
                asked = questions.match(model, drawn[0]) if "clip" in name else questions.ask(
                    model, data.render(drawn[0]), "is there a dog?", "yes", "no")  # fmt: skip
                bank = emoji_bank(model, progress=False) if "clip" in name else None
                found = neuron_descriptions(
                    model, drawn, inputs=asked.inputs, target=asked.target, bank=bank, site=SITES[name], many=16,
                    seed=seed, progress=False,
                )  # fmt: skip
                gone, others = (float(np.abs(found[one].sel(factor=0.0)).mean()) for one in ("change", "matched"))
                size, word = float(found["as_active"].mean()), float(found["write"][:, 0].mean())
                print(
                    f"{opened} seed {seed}: ablated {gone:.4f}, as active {others:.4f} ({size:.2f} of the unit's size)"
                )
                print(f"  best word {word:.2f}, of random vectors {float(found['write_random'].mean()):.2f}")
                even, chance = (found[one].mean("unit") for one in ("domain_entropy", "domain_null"))
                both = zip(even["domain"].values, even.values, chance.values, strict=True)
                print("  entropy (chance): " + ", ".join(f"{kind} {a:.3f} ({b:.3f})" for kind, a, b in both))


def paths(many: int) -> None:
    """Second-order effects beside exact ones."""
    print("\n## Second-order effects in CLIP, 24 units with the largest effects, 32 pictures")
    for opened in ("zoo:emoji-clip", "zoo:emoji-clip@untrained"):
        model = cutaway.load(opened)
        bank = emoji_bank(model, ("background", "artist"), limit=12, progress=False)
        for layer in (2, 3, 4, 5):
            site = f"vision.{layer}.mlp.post"
            found = second_order(model, scenes(opened, 32, 0), bank, site, exact=24, progress=False)
            told = found.agreement()
            print(
                f"{opened} layer {layer}: "
                + "; ".join(
                    f"{part} r {row['correlation']:.2f} size {row['size']:.2f}" for part, row in told.iterrows()
                )
            )


def forms(many: int) -> None:
    """Units that answer to a concept in every form."""
    print("\n## Multimodal units: share beyond the 99th percentile of shuffled labels; 16 concepts, 6 of each form")
    for name in ("zoo:emoji-clip", "zoo:emoji-llava"):
        last = f"{SITES[name].split('.')[0]}.5.mlp.post"
        for opened, site in ((name, SITES[name]), (name, last), (f"{name}@untrained", SITES[name])):
            for seed in SEEDS:
                found = multimodal_units(cutaway.load(opened), site=site, seed=seed, progress=False)
                said = [f"{row['forms']} {row['beyond']:.2f} (best {row['best']:.2f}, bound {row['bound']:.2f})"
                        for _, row in found.shares().iterrows()]  # fmt: skip
                print(f"{opened} {site} seed {seed}: {'; '.join(said)}")


def heads(many: int) -> None:
    """Heads of denoisers in words, trained and untrained, two draws of scenes."""
    print(f"\n## Heads of denoisers by the words that they write where the thing is, {many} scenes, step 10 of 20")
    print("| model | seed | heads | words | fit | held | another | moved | own | attention to words | things |")
    for name in ("zoo:emoji-sd", "zoo:emoji-mmdit"):
        for opened in (name, f"{name}@untrained"):
            for seed in SEEDS:
                found = drawing_heads(cutaway.load(opened), scenes(name, many, seed), seed=seed, progress=False)
                first = found.data.isel(pick=0)
                names = ("fit", "held", "another", "moved", "own", "share")
                means = [f"{float(first[one].mean()):.3f}" for one in names]
                things, said = float((first["kind"] == "thing").mean()), found.data.sizes["said"]
                print(f"| {opened} | {seed} | {first.sizes['head']} | {said} | {' | '.join(means)} | {things:.2f} |")
                print("  best:", found.summary().head(6)[["head", "held", "own", "words"]].round(3).to_dict("records"))


PARTS = {
    "heads": heads,
    "masks": masks,
    "judged": judged,
    "scored": scored,
    "named": named,
    "described": described,
    "paths": paths,
    "forms": forms,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=512)
    parser.add_argument("--part", nargs="+", default=[*PARTS], choices=[*PARTS])
    args = parser.parse_args()
    for part in args.part:
        started = time.perf_counter()
        PARTS[part](args.scenes)
        print(f"({part}: {time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
