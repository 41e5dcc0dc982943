"""Our drift checks beside Evidently, NannyML and alibi-detect, on the same articles.

Each tool runs in an environment of its own, a folder of that name in `--environments`; a missing one is skipped.
Measured with evidently 0.7.23, nannyml 0.13.1 and alibi-detect 0.13.0:

    python3.11 -m venv FOLDER/evidently && FOLDER/evidently/bin/pip install evidently "pandas<3"
    python3.11 -m venv FOLDER/nannyml && FOLDER/nannyml/bin/pip install nannyml statsmodels
    python3.11 -m venv FOLDER/alibi-detect && FOLDER/alibi-detect/bin/pip install alibi-detect torch

alibi-detect is under the Business Source License: it is measured here and never a dependency. The settings of each tool
are described in `drift_peer_worker.py`.

Articles of a reference and of a present table are drawn without overlap, or ("changed") some articles of the reference
are replaced by foreign ones. A correct tool raises no alarm on "unchanged" and on "10 % exchanged for the same kind".
`lvm verify`'s checks of the space and the order count as ours.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lvm_pipeline.concepts.drift.articles import ArticleSample
from lvm_pipeline.concepts.drift.compare import compare_articles
from lvm_pipeline.concepts.neighbours import ORDERED_SCORE, closeness_of
from lvm_pipeline.concepts.sample import sample_of
from lvm_pipeline.source.space_fingerprint import fingerprint_of

TOOLS = ("evidently", "nannyml", "alibi-detect")
WORKER = Path(__file__).with_name("drift_peer_worker.py")
SHARES = (0.01, 0.05, 0.1, 0.2)
NUM_TOPICS = 8
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}

Rng = np.random.Generator
Trial = tuple[ArticleSample, ArticleSample, list[str]]  # reference, present, ids of the articles that are not as before
Case = Callable[[Rng], Trial]


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Ways to make a trial of so many articles on either side."""

    native: ArticleSample
    foreign: ArticleSample
    size: int

    def unchanged(self, rng: Rng) -> Trial:
        """Two halves of unchanged articles."""
        drawn = rng.permutation(self.native.num_articles)[: 2 * self.size]
        return self.native.take(drawn[: self.size].tolist()), self.native.take(drawn[self.size :].tolist()), []

    def changed(self, share: float, *, others: ArticleSample | None = None) -> Case:
        """Return a case in which other articles replace this share of the reference, at least one article."""

        def case(rng: Rng) -> Trial:
            before, spare, _ = self.unchanged(rng)
            num, source = max(1, round(share * before.num_articles)), others or spare
            new = source.take(rng.permutation(source.num_articles)[:num].tolist())
            kept = before.take(list(range(num, before.num_articles)))
            return before, kept.followed_by(new), new.ids if others else []

        return case

    def foreign_among_new(self, rng: Rng) -> Trial:
        """No article of the reference is left, and a fifth of the present ones is foreign."""
        before, after, _ = self.unchanged(rng)
        num = round(after.num_articles / 5)
        others = self.foreign.take(rng.permutation(self.foreign.num_articles)[:num].tolist())
        return before, after.take(list(range(num, after.num_articles))).followed_by(others), others.ids

    def new_topic(self, rng: Rng) -> Trial:
        """The articles nearest to a random one are missing in the reference."""
        sums = np.add.reduceat(self.native.vectors, np.cumsum(self.native.num_sampled) - self.native.num_sampled)
        means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        near = np.argsort(-means @ means[rng.integers(len(means))])[: self.native.num_articles // NUM_TOPICS]
        others = rng.permutation(np.setdiff1d(np.arange(self.native.num_articles), near))
        num = min(len(near), self.size // 4)
        before = self.native.take(others[: self.size].tolist())
        after = self.native.take(others[self.size : 2 * self.size - num].tolist())
        new = self.native.take(near[:num].tolist())
        return before, after.followed_by(new), new.ids

    def encoder_swap(self, rng: Rng) -> Trial:
        """All present vectors are of another space of equal width."""
        before, after, _ = self.unchanged(rng)
        return before, with_vectors(after, rotated(after.vectors, seed=int(rng.integers(1000)))), after.ids

    def shuffled(self, rng: Rng) -> Trial:
        """The concepts of every present article are in a random order."""
        before, after, _ = self.unchanged(rng)
        order = np.lexsort((rng.random(len(after.vectors)), after.owners))
        return before, with_vectors(after, after.vectors[order]), after.ids

    def all(self) -> dict[str, Case]:
        """Return all by name, the unchanged first."""
        changed = {f"{share:.0%} changed": self.changed(share, others=self.foreign) for share in SHARES}
        return {
            "unchanged": self.unchanged,
            "10% exchanged for the same kind": self.changed(0.1),
            **changed,
            "all new, 20% of them foreign": self.foreign_among_new,
            "a new topic": self.new_topic,
            "encoder swap": self.encoder_swap,
            "shuffled rows": self.shuffled,
        }


def rotated(vectors: np.ndarray, *, seed: int) -> np.ndarray:
    """Return vectors, (N, D), as another encoder of the same width would place them."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((vectors.shape[1],) * 2))
    return (vectors @ rotation).astype(np.float32)


def with_vectors(articles: ArticleSample, vectors: np.ndarray) -> ArticleSample:
    """Return the articles with other vectors."""
    return ArticleSample(**{**vars(articles), "vectors": vectors})


def ours(trial: Trial) -> tuple[bool, bool]:
    """Run all our checks; return whether any alarms, and whether one names an article that is not as before."""
    before, after, harmed = trial
    findings = [each for each in compare_articles(before, after) if not each.passed]
    named = {str(each.get("article_id")) for found in findings for each in found.details.get("articles", [])[:3]}
    fingerprint = fingerprint_of("reference", before.vectors, before.owners)
    is_other = fingerprint is not None and fingerprint.why_other(after.vectors) is not None
    return bool(findings) or is_other or lost_order(before, after), bool(named & set(harmed)) or is_other


def lost_order(before: ArticleSample, after: ArticleSample) -> bool:
    """Whether adjacent concepts are close in the reference and not now, as `neighbours_are_close` tests."""
    found = []
    for each in (before, after):
        texts = pa.nulls(len(each.vectors), pa.string())  # closeness reads vectors alone
        sample = sample_of(texts, each.owners, each.vectors)
        closeness = closeness_of(sample)
        found.append(closeness.excess >= ORDERED_SCORE * closeness.excess_deviation)
    return found[0] and not found[1]


def theirs(tool: str, trials: Sequence[Trial], *, environments: Path, budget: float) -> list[dict[str, Any]] | str:
    """Run a tool on trials; return its results, or why it has none."""
    python = environments / tool / "bin" / "python"
    if not python.exists():
        return f"not installed in {environments / tool}"
    with tempfile.TemporaryDirectory(prefix="lvm-drift-") as folder:
        for number, (before, after, _) in enumerate(trials):
            np.savez(Path(folder) / f"{number:04}.npz", before=before.vectors, after=after.vectors)
        command = [str(python), str(WORKER), tool, folder, str(budget)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    lines = done.stderr.strip().splitlines()
    return answers or f"failed: {lines[-1] if lines else 'no answer'}"


def compared(
    native: ArticleSample,
    foreign: ArticleSample,
    *,
    size: int,
    num_unchanged: int,
    num_changed: int,
    environments: Path,
    budget: float,
    only: Collection[str] | None = None,
    rng: Rng,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each case and method.

    It holds the share of trials with an alarm (of ours and of the tool), the tool's seconds, and the share of trials in
    which it names a culprit.
    """
    cases = Cases(native=native, foreign=foreign, size=min(size, native.num_articles // 2))
    for case, make in cases.all().items():
        trials = [make(rng) for _ in range(num_unchanged if case == "unchanged" else num_changed)]
        if only and case not in only:
            continue  # after drawing, so that the trials of a case do not depend on which others are asked for
        started = time.process_time()
        answers = [ours(trial) for trial in trials]
        seconds = (time.process_time() - started) / len(trials)
        alarms, names = np.array(answers).mean(axis=0).tolist()
        shared = {"case": case, "ours": alarms, "ratio": None, "goal": None, "met": None}
        figures = {"num": len(trials), "seconds": seconds, "names": names}
        yield {"name": f"{case}: ours", **shared, "tool": "ours", "peer": None, **figures}
        for tool in TOOLS:
            found = theirs(tool, trials, environments=environments, budget=budget)
            if isinstance(found, str):
                yield {"name": f"{case}: {tool}", **shared, "tool": tool, "peer": None, "num": 0, "problem": found}
                continue
            for way in dict.fromkeys(each["way"] for each in found):
                figures = summary([each for each in found if each["way"] == way])
                yield {"name": f"{case}: {tool} {way}", **shared, "tool": f"{tool} {way}", **figures}


def summary(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the results of one method; it names dimensions at most, never articles."""
    alarms, seconds = (float(np.mean([each[name] for each in answers])) for name in ("alarm", "seconds"))
    return {"peer": alarms, "num": len(answers), "seconds": seconds, "names": 0.0}


def as_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Yield the rows as text, each as soon as it is measured."""
    yield f"{'case':32} {'tool':24} {'alarms':>7} {'of':>5} {'seconds':>8} {'names the culprit':>18}"
    for row in rows:
        start = f"{row['case']:32} {row['tool']:24} "
        if "problem" in row:
            yield start + row["problem"]
        else:
            alarms = row["ours"] if row["tool"] == "ours" else row["peer"]
            yield start + f"{alarms:7.0%} {row['num']:5} {row['seconds']:8.2f} {row['names']:18.0%}"
