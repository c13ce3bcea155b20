"""Each technique of `[train]` on and off: the same recipe, one key changed, scored side by side.

    python -m tests.benchmarks.ablation pronunciation --data FOLDER [--steps 3000] [--only layerdrop r-drop]

Trains the base and one run for each technique, with the same seed, data and steps; a run that is finished is not
trained again, and one that was interrupted goes on. At the end it prints a table in Markdown: the score of each with
its 95 % interval over the lines of the split, and the p-value of the paired bootstrap, that it differs from the base by
chance. What another seed, a longer training or a larger model would make of a technique is not in it.
docs/ablation.md has the results.
"""

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

from rich.progress import Progress

from tfseq2seq import assessment
from tfseq2seq.significance import SIGNIFICANT, Comparison

RECIPES = Path("pipelines/recipes")
PYTHON = "from tfseq2seq.cli import main; main()"


@dataclasses.dataclass(frozen=True)
class Study:
    """A recipe, what makes it small, and the techniques that are tried on it.

    Attributes:
        recipe: file in pipelines/recipes.
        base: keys of the base and of all others.
        techniques: keys that one run each changes, by name.
    """

    recipe: str
    base: dict[str, str]
    techniques: dict[str, dict[str, str]]


BOTH = {
    "label_smoothing = 0 (0.1 in the base)": {"train.label_smoothing": "0.0"},
    "no clipping (1.0 in the base)": {"train.clip_norm": "0.0"},
    "teacher forcing 0.9": {"train.teacher_forcing_ratio": "0.9"},
    "teacher forcing, linear to 0.75": {
        "train.teacher_forcing_schedule": "linear", "train.teacher_forcing_ratio": "0.75",
        "train.teacher_forcing_k": "0.00025"},
    "source word dropout 0.05": {"train.source_word_dropout": "0.05"},
    "target word dropout 0.1": {"train.target_word_dropout": "0.1"},
    "target token noise 0.05": {"train.target_token_noise": "0.05"},
    "R-Drop, alpha = 1": {"train.r_drop": "1.0"},
    "LayerDrop 0.1": {"model.encoder.layer_drop": "0.1", "model.decoder.layer_drop": "0.1"},
    "moving average 0.99": {"train.average_decay": "0.99"},
    "cosine schedule": {"train.schedule": "cosine"},
    "inverse square root schedule": {"train.schedule": "inverse_square_root"},
    "AdamW": {"train.optimizer": "adamw"},
    "Nadam": {"train.optimizer": "nadam"},
}
SUBWORDS = {
    "subword regularisation 0.2, source": {"train.source_subword_alpha": "0.2"},
    "subword regularisation 0.2, both": {"train.source_subword_alpha": "0.2", "train.target_subword_alpha": "0.2"},
}


def _smaller(units: int, layers: int) -> dict[str, str]:
    changed = {"model.embedding_units": str(units)}
    for side in ("encoder", "decoder"):
        changed |= {
            f"model.{side}.units": str(units), f"model.{side}.layers": str(layers),
            f"model.{side}.feed_forward_units": str(3 * units)}
    return changed


STUDIES = {
    "pronunciation": Study("pronunciation_transformer.toml", _smaller(96, 2), BOTH),
    "multi30k": Study("multi30k_transformer.toml", _smaller(128, 2), BOTH | SUBWORDS),
}


def train(study: Study, name: str, changed: dict[str, str], steps: int, data: str, folder: Path) -> Path:
    """Trains one run, or what is left of it; returns its folder."""
    command = [sys.executable, "-c", PYTHON, "train", str(RECIPES / study.recipe)]
    command += ["--data", data, "--runs", str(folder)]
    own = {
        "name": name, "train.steps": str(steps), "train.evaluate_every": str(steps), "train.valid_lines": "500",
        "train.warmup_steps": str(steps // 5)}  # a fifth: that of a full training would last the whole of a short one
    for key, value in (study.base | own | changed).items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, check=True)
    return folder / name


def table(found: dict[str, dict[str, Comparison]], names: dict[str, str]) -> list[str]:
    """Lines of Markdown: a row a run, of the first metric, the base first."""
    metric = next(iter(next(iter(found.values()))))
    lines = [f"| | {metric} | p |", "| --- | --- | --- |"]
    for folder, scores in found.items():
        score = scores[metric]
        p = "" if score.p_value is None else f"{score.p_value:.3f}" + (" *" if score.p_value < SIGNIFICANT else "")
        lines.append(f"| {names[folder]} | {score.value:.2f} ± {score.interval:.2f} | {p} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", required=True, help="folder of train, valid and test pairs")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--only", nargs="*", help="techniques that contain one of these words; default all")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--split", choices=["valid", "test"], default="test", help="what the scores are of")
    options = parser.parse_args()
    study = STUDIES[options.study]
    wanted = {"base": {}} | {
        name: changed for name, changed in study.techniques.items()
        if options.only is None or any(word.lower() in name.lower() for word in options.only)}
    names = {}
    for number, (name, changed) in enumerate(wanted.items()):
        position = 0 if name == "base" else 1 + list(study.techniques).index(name)
        print(f"{number + 1} of {len(wanted)}: {name}", flush=True)
        folder = f"ablation-{options.study}-{options.steps}-{position:02d}"
        names[str(train(study, folder, changed, options.steps, options.data, options.runs))] = name
    with Progress() as bar:
        task = bar.add_task("scoring", total=None)
        found = assessment.compare_runs(
            [Path(name) for name in names], options.split, lambda stage, done, total: bar.update(
                task, description=stage, completed=done, total=total))
    print("\n".join(table(found, names)))


if __name__ == "__main__":
    main()
