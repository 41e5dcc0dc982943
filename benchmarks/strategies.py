"""Ablate every strategy: train with and without it, with the same seeds, and compare on the same validation targets.

    nice python benchmarks/strategies.py --home LVM_HOME --architecture gru --preset small --output ablation
    nice python benchmarks/strategies.py --home LVM_HOME --only progressive,ema --seeds 0,1 --set epochs=4
    nice python benchmarks/strategies.py --home LVM_HOME --only decode_in_the_loop:decoder=prefix

The home must hold concepts and sequences (`lvm run` makes them); nothing is written there. Arms are `plain`, each
strategy with its default options, combinations joined with +, and `ema` (averaged weights, decay 0.99). Options of a
strategy follow its name, after colons. Cosines are kept in the output folder, so a run that is stopped goes on where it
was. A gain is the difference of the cosines, averaged over the seeds that both arms have, with its 95 % interval under
resampling of articles; `seeds above` is the number of seeds whose own interval lies above zero. A strategy that the
data do not allow is listed with its reason.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import in_words

from lvm_pipeline.errors import LvmError
from lvm_pipeline.evaluation.scoring import score_model
from lvm_pipeline.measures.uncertainty import paired_gain
from lvm_pipeline.settings import Settings
from lvm_pipeline.training.config import training_config
from lvm_pipeline.training.data import TrainingData, load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline.training.strategies import strategy_names
from lvm_pipeline.training.trial import PLAIN

EMA, EMA_DECAY = "ema", 0.99


def main() -> None:
    """Train the arms that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="LVM_HOME with the data.")
    parser.add_argument("--architecture", default="gru")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=",".join([EMA, *strategy_names()]), help="Arms besides plain.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="Another training option.")
    parser.add_argument("--output", type=Path, default=Path("ablation"), help="Folder of the results.")
    arguments = parser.parse_args()
    settings = Settings(home=arguments.home)
    data = load_training_data(
        *settings.promoted_tables, encoders_dir=settings.encoders_dir, decoders_dir=settings.decoders_dir
    )
    arms = [PLAIN, *(arm for arm in arguments.only.split(",") if arm != PLAIN)]
    for seed in map(int, arguments.seeds.split(",")):
        for arm in arms:
            measure(arm, seed, data, arguments)
            print_table(arms, arguments)


def measure(arm: str, seed: int, data: TrainingData, arguments: argparse.Namespace) -> None:
    """Train and score one arm with one seed, if that is not done yet."""
    path = arguments.output / f"{arm}-{seed}.json"
    options = {
        "architecture": arguments.architecture,
        "preset": arguments.preset,
        "seed": seed,
        "num_threads": arguments.threads,
        **dict(map(named_value, arguments.set)),
        **({"ema_decay": EMA_DECAY} if arm == EMA else strategy_of(arm)),
    }
    made_with = {**options, "sequences": data.sequences.metadata.fingerprint}
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")).get("made_with") != made_with:
            raise SystemExit(f"{path} is of other options or data; choose another --output.")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            info = train(training_config(options), data, output_dir=Path(folder) / "model").info
        except LvmError as error:
            path.write_text(json.dumps({"problem": str(error), "made_with": made_with}), encoding="utf-8")
            return
        scores = score_model(Path(folder) / "model", data, device="cpu").row_scores()
    np.savez(path.with_suffix(".npz"), cosines=scores.cosines, articles=scores.articles)
    found = {
        "trial_id": info.trial_id,
        "made_with": made_with,
        "cosine": scores.cosine,
        "fingerprint": scores.fingerprint,
        "seconds": info.training_seconds,
        "best_epoch": info.best_epoch,
        "notes": info.strategy_notes,
        "machine": in_words("cpu", num_threads=arguments.threads),
    }
    path.write_text(json.dumps(found, indent=2), encoding="utf-8")


def strategy_of(arm: str) -> dict[str, str]:
    """Return the training options of an arm such as `decode_in_the_loop:decoder=prefix`."""
    strategy, *options = arm.split(":")
    return {"strategy": strategy, **{f"strategy_options.{name}": value for name, value in map(named_value, options)}}


def named_value(text: str) -> list[str]:
    """Split `name=value`."""
    return text.split("=", 1)


def print_table(arms: list[str], arguments: argparse.Namespace) -> None:
    """Print what is known of every arm as a Markdown table."""
    print("\n| arm | seeds | cosine | gain over plain | seeds above | seconds | remark |")
    print("|---|---|---|---|---|---|---|")
    base = results(PLAIN, arguments.output)
    for arm in arms:
        found = results(arm, arguments.output)
        if found:
            print(row(arm, found, base))


def results(arm: str, folder: Path) -> dict[int, dict[str, Any]]:
    """Return what is known of an arm, by seed."""
    paths = {int(path.stem.rpartition("-")[2]): path for path in sorted(folder.glob(f"{arm}-*.json"))}
    found = {seed: json.loads(path.read_text(encoding="utf-8")) for seed, path in paths.items()}
    for seed, values in found.items():
        if "problem" not in values:
            with np.load(paths[seed].with_suffix(".npz")) as arrays:
                values |= {name: arrays[name] for name in ("cosines", "articles")}
    return found


def row(arm: str, found: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]]) -> str:
    """Return the row of one arm."""
    scored = {seed: values for seed, values in found.items() if "problem" not in values}
    if not scored:
        problem = next(iter(found.values()))["problem"]
        return f"| {arm} | - | - | - | - | - | {problem} |"
    seeds = [seed for seed in scored if "cosines" in base.get(seed, {})] or list(scored)
    cosine = np.mean([scored[seed]["cosine"] for seed in seeds])
    seconds = np.mean([scored[seed]["seconds"] for seed in seeds])
    notes = " ".join(scored[min(scored)]["notes"].values())
    gain, above = "-", "-"
    if arm != PLAIN and "cosines" in base.get(seeds[0], {}):
        articles = base[seeds[0]]["articles"]
        pairs = [(scored[seed]["cosines"], base[seed]["cosines"]) for seed in seeds]
        mean = paired_gain(
            np.mean([pair[0] for pair in pairs], axis=0), np.mean([p[1] for p in pairs], axis=0), articles
        )
        gain = f"{mean.mean:+.4f} [{mean.low:+.4f}, {mean.high:+.4f}]"
        above = f"{sum(paired_gain(*pair, articles).is_above_zero for pair in pairs)} of {len(pairs)}"
    listed = ", ".join(map(str, seeds))
    return f"| {arm} | {listed} | {cosine:.4f} | {gain} | {above} | {seconds:.0f} | {notes} |"


if __name__ == "__main__":
    main()
