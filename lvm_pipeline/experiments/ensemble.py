"""Ensembles: two to five trained models as one, which predicts the normalised weighted mean of their predictions.

An ensemble is a trained model like any other, with a trial id, a folder and a report of its own. Its folder holds hard
links to the members' files (copies where the disk has no links), so it stays complete when a member is trained again or
deleted. The weights are equal, or fitted on the validation articles; see `choose_weights`. With `neighbours`, the mean
is corrected by its residuals on the train articles; see `architectures._neighbours`.

Shapes: S = targets, M = members, D = vector width.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lvm_pipeline.architectures._contract import LatentVectorModel, count_parameters
from lvm_pipeline.architectures._ensemble import Ensemble
from lvm_pipeline.architectures._threads import torch_threads
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import link_or_copy, staged_dir, write_json
from lvm_pipeline.measures.metrics import cosines
from lvm_pipeline.measures.uncertainty import Interval, paired_gain
from lvm_pipeline.source.split_hash import Split
from lvm_pipeline.training.batches import condition_on_device, vectors_on_device
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import Spans, TrainingData
from lvm_pipeline.training.predictions import predict_spans
from lvm_pipeline.training.provenance import code_version, package_versions
from lvm_pipeline.training.settle import find_device
from lvm_pipeline.training.strategies import condition_of, content_kinds, strategies_of
from lvm_pipeline.training.trained_model import (
    IDENTITY_KEY,
    INFO_FILE,
    MEMBERS_DIR,
    WEIGHTS_FILE,
    Member,
    TrainedModelInfo,
    class_name,
    ensemble_from,
    load_trained_model,
    save_tensors,
    weights_fingerprint,
)
from lvm_pipeline.training.trial import Trial
from lvm_pipeline.words import counted

ENSEMBLE = "ensemble"  # the architecture in an ensemble's trial
FEWEST_MEMBERS, MOST_MEMBERS = 2, 5
NUM_FOLDS = 5  # parts of the validation articles in cross-fitting

Weighting = Literal["equal", "validation"]


@dataclass(frozen=True, kw_only=True)
class WeightChoice:
    """The weights of the members, (M,), and the reason for them."""

    weights: tuple[float, ...]
    reason: str


@dataclass(frozen=True)
class Agreement:
    with_targets: NDArray[np.float64]  # cosine of each member's prediction with its target, (S, M)
    among_members: NDArray[np.float64]  # cosine of each two members' predictions, (S, M, M)
    articles: NDArray[np.int64]  # article of each target, (S,)

    def cosines(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the cosine of the weighted mean with each target, (S,)."""
        lengths = np.einsum("smn,m,n->s", self.among_members, weights, weights)
        return self.with_targets @ weights / np.sqrt(np.maximum(lengths, 1e-12))

    def take(self, chosen: NDArray[Any]) -> "Agreement":
        return Agreement(self.with_targets[chosen], self.among_members[chosen], self.articles[chosen])


def ensemble_trial(
    member_ids: Sequence[str], *, name: str | None = None, weighting: Weighting = "equal", neighbours: bool = False
) -> Trial:
    """Return the trial of an ensemble: its members' trial ids, how they are weighted, and whether it is corrected.

    Raises:
        LvmError: If there are too few or too many members, one is named twice, or the name cannot be part of an id.
    """
    members = sorted(set(member_ids))
    if len(members) < len(member_ids):
        raise LvmError("A trial was named twice; name each trial once.")
    if not FEWEST_MEMBERS <= len(members) <= MOST_MEMBERS:
        raise LvmError(f"An ensemble has {FEWEST_MEMBERS} to {MOST_MEMBERS} members, got {len(members)}.")
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise LvmError(
            f"The name {name!r} cannot be part of a trial id; use letters, digits, dots, dashes, underscores."
        )
    model: dict[str, Any] = {"members": members, "weights": weighting}
    if neighbours:
        model["neighbours"] = True
    return Trial(architecture=ENSEMBLE, preset=name or f"of{len(members)}", model=model)


def ensemble_code_version(infos: Sequence[TrainedModelInfo]) -> str:
    """Return the version of the code that combines and runs these members."""
    architectures = sorted({f"lvm_pipeline.architectures.{info.architecture}" for info in infos})
    return code_version(__name__, *architectures)


def refuse_unlike(members: Mapping[str, TrainedModelInfo], data: TrainingData) -> None:
    """Refuse members that cannot be averaged, or whose scores on these data would not be valid.

    Raises:
        LvmError: If members differ in space, width, data or split from the first or from the data, or one is itself
            an ensemble.
    """
    (first_id, first), *_ = members.items()
    for trial_id, info in members.items():
        if info.members:
            raise LvmError(f"{trial_id} is itself an ensemble; name its members instead.")
        for what, own, others in (
            ("space", info.space_id, first.space_id),
            ("vector width", info.config["vector_dim"], first.config["vector_dim"]),
            ("unit length", info.config["unit_length"], first.config["unit_length"]),
            ("data", info.fingerprints, first.fingerprints),
            ("split", info.split, first.split),
            ("context length", info.context_length, first.context_length),
        ):
            if own != others:
                raise LvmError(
                    f"{trial_id} and {first_id} cannot be in one ensemble, since they differ in {what} ({_short(own)} "
                    f"and {_short(others)}); choose trials that agree in it."
                )
        if info.fingerprints != data.fingerprints or info.content_fingerprint != info.content_in(data.concepts):
            raise LvmError(
                f"{trial_id} was trained on other data than the present concepts and sequences; train it again."
            )
        if not _reads_tmd_vectors(info, data):
            raise LvmError(
                f"{trial_id} reads a condition that its strategy {info.trial['strategy']} makes, and an ensemble gives "
                "its members the concepts' TMD vectors only; choose trials of other strategies."
            )


def _reads_tmd_vectors(info: TrainedModelInfo, data: TrainingData) -> bool:
    """Whether the condition of a model is the concepts' TMD vectors as they are, or it has none."""
    trial, width = Trial(**info.trial), info.config.get("condition_dim", 0)
    if all(strategy.condition is None for strategy, _ in strategies_of(trial)):
        return True
    try:
        shared = data.condition(width)
    except LvmError:
        return False
    return shared is not None and np.array_equal(condition_of(trial, data, condition_dim=width), shared)


def build_ensemble(
    member_dirs: Mapping[str, Path],
    data: TrainingData,
    *,
    trial: Trial,
    output_dir: Path,
    device: str = "cpu",
    num_threads: int = 2,
    seed: int = 0,
) -> TrainedModelInfo:
    """Combine trained models and write the ensemble as a trained model; return its record.

    Args:
        member_dirs: Model folders of the members, by trial id.
        data: What all of them were trained on; the validation split gives the score and any fitted weights.
        trial: From `ensemble_trial`.
        output_dir: Folder of the ensemble. An earlier one is replaced at the end.
    """
    with torch_threads(num_threads):
        return _build(member_dirs, data, trial, output_dir, device=device, num_threads=num_threads, seed=seed)


def _build(
    member_dirs: Mapping[str, Path],
    data: TrainingData,
    trial: Trial,
    output_dir: Path,
    *,
    device: str,
    num_threads: int,
    seed: int,
) -> TrainedModelInfo:
    started = time.monotonic()
    config = TrainingConfig(**dict(trial), device=find_device(device), num_threads=num_threads)
    loaded = {trial_id: load_trained_model(folder, device=config.device) for trial_id, folder in member_dirs.items()}
    infos = {trial_id: info for trial_id, (_, info) in loaded.items()}
    refuse_unlike(infos, data)
    spans = data.scored_spans("validation", mode="windows")
    predictions = [predicted(model, data, mode=info.mode, device=config.device) for model, info in loaded.values()]
    agreement = agreement_of(predictions, spans, data)
    choice = choose_weights(agreement, weighting=trial.model["weights"], seed=seed)
    members = _members(infos, member_dirs, agreement, choice)
    with staged_dir(output_dir) as staged:
        for trial_id, folder in member_dirs.items():
            for name in (WEIGHTS_FILE, INFO_FILE):
                link_or_copy(folder / name, staged / MEMBERS_DIR / trial_id / name)
        neighbours = bool(trial.model.get("neighbours", False))
        ensemble = ensemble_from(staged, members, neighbours=neighbours).to(config.device).eval()
        mode = "articles" if any(member.mode == "articles" for member in members) else "windows"
        if neighbours:
            num_kept = _fit_neighbours(ensemble, data, mode=mode, device=config.device)
            choice = replace(
                choice, reason=f"{choice.reason}; corrected by the residuals at {counted(num_kept, 'train target')}"
            )
        scored = predicted(ensemble, data, mode=mode, device=config.device)
        info = replace(
            _record_of(infos, members, config, choice, data),
            model_class=class_name(ensemble),
            num_params=count_parameters(ensemble),
            config=asdict(ensemble.config),
            mode=mode,
            score=float(cosines(scored, np.asarray(data.vectors[spans.target_rows()])).mean()),
            start_score=float(agreement.cosines(np.full(len(members), 1 / len(members))).mean()),
            training_seconds=time.monotonic() - started + sum(each.training_seconds for each in infos.values()),
        )
        header = {IDENTITY_KEY: info.identity, MEMBERS_DIR: ", ".join(each.weights_fingerprint for each in members)}
        own = {name: each.cpu() for name, each in ensemble.state_dict().items() if not name.startswith("members.")}
        save_tensors(staged / WEIGHTS_FILE, own, header)
        write_json(staged / INFO_FILE, info.as_json())
    return info


def _members(
    infos: Mapping[str, TrainedModelInfo], dirs: Mapping[str, Path], agreement: Agreement, choice: WeightChoice
) -> list[Member]:
    return [
        Member(
            trial_id=trial_id,
            architecture=info.architecture,
            preset=info.preset,
            mode=info.mode,
            weight=weight,
            score=float(agreement.with_targets[:, index].mean()),
            weights_fingerprint=weights_fingerprint(dirs[trial_id]),
            content=sorted(content_kinds(Trial(**info.trial))),
        )
        for index, ((trial_id, info), weight) in enumerate(zip(infos.items(), choice.weights, strict=True))
    ]


def _fit_neighbours(ensemble: Ensemble, data: TrainingData, *, mode: str, device: str) -> int:
    """Fit the correction to the ensemble's uncorrected predictions on train; return the number of targets it keeps."""
    assert ensemble.neighbours is not None
    found = predicted(ensemble, data, mode=mode, device=device, split="train")
    targets = np.asarray(data.vectors[data.scored_spans("train", mode=mode).target_rows()], np.float32)
    ensemble.neighbours.fit(torch.from_numpy(found).to(device), torch.from_numpy(targets).to(device))
    return len(ensemble.neighbours.keys)


def predicted(
    model: LatentVectorModel, data: TrainingData, *, mode: str, device: str, split: Split = "validation"
) -> NDArray[np.float32]:
    """Return a model's predictions for the targets of a split, (S, D)."""
    condition = condition_on_device(data.condition(model.config.condition_dim), device)
    spans = data.scored_spans(split, mode=mode)
    return predict_spans(model, vectors_on_device(data.vectors, device), spans, condition=condition)


def agreement_of(predictions: Sequence[NDArray[np.float32]], spans: Spans, data: TrainingData) -> Agreement:
    """Compute the cosines of the members' predictions (S, D) with the targets and with each other.

    Predictions are taken as they are: of unit length, or as long as the space's vectors are.
    """
    rows = spans.target_rows()
    targets = np.asarray(data.vectors[rows], np.float64)
    targets /= np.maximum(np.linalg.norm(targets, axis=1, keepdims=True), 1e-12)
    stacked = np.stack(predictions).astype(np.float64)
    return Agreement(
        with_targets=np.einsum("msd,sd->sm", stacked, targets),
        among_members=np.einsum("msd,nsd->smn", stacked, stacked),
        articles=data.articles_of(rows),
    )


def choose_weights(agreement: Agreement, *, weighting: Weighting, seed: int = 0) -> WeightChoice:
    """Choose the members' weights.

    `equal` fits nothing. `validation` fits them on the validation articles, which also give the score. To avoid bias,
    they are first cross-fitted: fitted on four fifths of the articles and scored on the last fifth, in turn.
    Fitted weights are used only if the cross-fitted gain over equal weights has an interval above zero.

    Raises:
        LvmError: If the weighting is neither.
    """
    num_members = agreement.with_targets.shape[1]
    equal = np.full(num_members, 1 / num_members)
    if weighting == "equal":
        return WeightChoice(weights=tuple(equal.tolist()), reason="equal weights")
    if weighting != "validation":
        raise LvmError(f"There is no weighting {weighting!r}; choose equal or validation.")
    num_articles = len(np.unique(agreement.articles))
    if num_articles < NUM_FOLDS:
        reason = (
            f"equal weights: {counted(num_articles, 'validation article is', 'validation articles are')} "
            "too few to fit others"
        )
        return WeightChoice(weights=tuple(equal.tolist()), reason=reason)
    gain = paired_gain(cross_fitted(agreement, seed=seed), agreement.cosines(equal), agreement.articles, seed=seed)
    measured = f"weights fitted on validation change the cosine by {_in_words(gain)} in cross-fitting by articles"
    if not gain.is_above_zero:
        return WeightChoice(weights=tuple(equal.tolist()), reason=f"equal weights: {measured}")
    return WeightChoice(weights=tuple(fitted_weights(agreement).tolist()), reason=f"fitted weights: {measured}")


def cross_fitted(agreement: Agreement, *, seed: int = 0) -> NDArray[np.float64]:
    """Return the cosine of each target under weights that were fitted on other articles, (S,)."""
    from sklearn.model_selection import GroupKFold

    folds = GroupKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    cosines = np.empty(len(agreement.articles))
    for fitted, scored in folds.split(agreement.articles, groups=agreement.articles):
        cosines[scored] = agreement.take(scored).cosines(fitted_weights(agreement.take(fitted)))
    return cosines


def fitted_weights(agreement: Agreement) -> NDArray[np.float64]:
    """Return the non-negative weights with sum 1 that give the highest mean cosine, (M,)."""
    from scipy.optimize import minimize

    num_members = agreement.with_targets.shape[1]
    found = minimize(
        lambda weights: -agreement.cosines(weights).mean(),
        np.full(num_members, 1 / num_members),
        method="SLSQP",
        bounds=[(0, 1)] * num_members,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-10},
    )
    weights = np.clip(found.x, 0, None)
    return weights / weights.sum()


def _record_of(
    infos: Mapping[str, TrainedModelInfo],
    members: list[Member],
    config: TrainingConfig,
    choice: WeightChoice,
    data: TrainingData,
) -> TrainedModelInfo:
    """Return the record of the ensemble: that of the first member with the ensemble's own values."""
    first = next(iter(infos.values()))
    record = replace(
        first,
        architecture=ENSEMBLE,
        preset=config.preset,
        trial=config.trial.identity(),
        training={**config.as_json(), "mode": first.mode, "weights_chosen": choice.reason},
        seed=config.seed,
        code_version=ensemble_code_version(list(infos.values())),
        packages=package_versions(),
        is_leaking=any(info.is_leaking for info in infos.values()),
        strategy_notes={},
        arithmetic={},
        selection_metric="cosine",
        best_epoch=0,
        history=[],
        trained_on=f"{len(members)} trained models, averaged",
        members=members,
    )
    return replace(record, content_fingerprint=record.content_in(data.concepts))


def _short(value: Any) -> str:
    """Write a value that two members differ in, shortened."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {str(each)[:12]}" for name, each in value.items() if name != "counts")


def _in_words(gain: Interval) -> str:
    return f"{gain.mean:+.4f}" + ("" if gain.low is None else f" [{gain.low:+.4f}, {gain.high:+.4f}]")
