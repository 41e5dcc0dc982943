"""Run one drift tool on prepared trials, in the environment of that tool, which has nothing of this project.

Arguments: tool, folder of trials (`<number>.npz` with `before` and `after`, rows of vectors), and the seconds of
processor time that one method may take. Prints one JSON line for each method and trial: whether it raised an alarm,
the seconds, and what it names.

Methods and settings are those that the documentation of each tool gives for embeddings, with its default thresholds. No
tool has an option for rows that belong to one article.

- Evidently: `classifier` is its default for embeddings, `MMD` its kernel test, both with a bootstrap below 1,000 rows
  as in its report (without the t-SNE figure); `columns` is its data drift preset on principal components.
- NannyML: `reconstruction` is the error of a PCA that keeps 65 % of the variance, with limits of three standard
  deviations over ten chunks of the reference; `classifier` is LightGBM on principal components, in two chunks (the
  fewest it takes), with an alarm above an AUC of 0.65.
- alibi-detect: `KS` tests every principal component with Bonferroni's correction, `MMD` permutes rows 100 times, both
  at 5 %.

Principal components are the 32 leading ones of the reference.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

NUM_COMPONENTS = 32

Rows = np.ndarray
Answer = tuple[bool, str]  # alarm, what it names


def evidently_classifier(before: Rows, after: Rows) -> Answer:
    """A classifier of single rows."""
    from evidently.legacy.metrics.data_drift import (  # pyright: ignore[reportMissingImports]
        embedding_drift_methods as methods,
    )

    _, alarm, _ = methods.model(bootstrap=len(before) < 1000)(framed(after), framed(before))
    return bool(alarm), ""


def evidently_mmd(before: Rows, after: Rows) -> Answer:
    """Maximum mean discrepancy of single rows."""
    from evidently.legacy.metrics.data_drift import (  # pyright: ignore[reportMissingImports]
        embedding_drift_methods as methods,
    )

    _, alarm, _ = methods.mmd(bootstrap=len(before) < 1000)(framed(after), framed(before))
    return bool(alarm), ""


def evidently_columns(before: Rows, after: Rows) -> Answer:
    """A test of each principal component; an alarm if half of them drift."""
    from evidently import Report  # pyright: ignore[reportMissingImports]
    from evidently.presets import DataDriftPreset  # pyright: ignore[reportMissingImports]

    before, after = reduced(before, after)
    found = Report([DataDriftPreset()]).run(framed(after), framed(before)).dict()["metrics"]
    (share,) = (each["value"]["share"] for each in found if each["metric_name"].startswith("DriftedColumnsCount"))
    return share >= 0.5, "components"


def nannyml_reconstruction(before: Rows, after: Rows) -> Answer:
    """Reconstruction error of a PCA of single rows."""
    import nannyml  # pyright: ignore[reportMissingImports]

    reference, analysis = framed(before), framed(after)
    calculator = nannyml.DataReconstructionDriftCalculator(column_names=list(reference.columns), chunk_number=10)
    calculator.fit(reference)
    found = calculator.calculate(analysis).filter(period="analysis").to_df()
    return bool(found["reconstruction_error"]["alert"].any()), ""


def nannyml_classifier(before: Rows, after: Rows) -> Answer:
    """LightGBM between single rows, cross-validated."""
    import nannyml  # pyright: ignore[reportMissingImports]

    reference, analysis = (framed(each) for each in reduced(before, after))
    defaults = nannyml.drift.multivariate.domain_classifier.calculator.DEFAULT_LGBM_HYPERPARAMS
    calculator = nannyml.DomainClassifierCalculator(
        feature_column_names=list(reference.columns),
        chunk_number=2,
        hyperparameters={**defaults, "n_jobs": 1, "verbosity": -1},
    )
    calculator.fit(reference)
    found = calculator.calculate(analysis).filter(period="analysis").to_df()
    return bool(found["domain_classifier_auroc"]["alert"].any()), ""


def alibi_ks(before: Rows, after: Rows) -> Answer:
    """Kolmogorov-Smirnov tests of each principal component."""
    from alibi_detect.cd import KSDrift  # pyright: ignore[reportMissingImports]

    before, after = reduced(before, after)
    found = KSDrift(before, p_val=0.05).predict(after)["data"]
    return bool(found["is_drift"]), f"component {int(np.argmin(found['p_val']))}"


def alibi_mmd(before: Rows, after: Rows) -> Answer:
    """Maximum mean discrepancy of single rows."""
    from alibi_detect.cd import MMDDrift  # pyright: ignore[reportMissingImports]

    before, after = reduced(before, after)
    return bool(MMDDrift(before, backend="pytorch", p_val=0.05).predict(after)["data"]["is_drift"]), ""


WAYS: dict[str, dict[str, Callable[[Rows, Rows], Answer]]] = {
    "evidently": {"classifier": evidently_classifier, "MMD": evidently_mmd, "columns": evidently_columns},
    "nannyml": {"reconstruction": nannyml_reconstruction, "classifier": nannyml_classifier},
    "alibi-detect": {"KS": alibi_ks, "MMD": alibi_mmd},
}


def framed(rows: Rows):
    """Return the rows with a name for each column."""
    import pandas as pd

    return pd.DataFrame(rows, columns=[f"d{index}" for index in range(rows.shape[1])])


def reduced(before: Rows, after: Rows) -> tuple[Rows, Rows]:
    """Return both on the leading principal components of the reference."""
    from sklearn.decomposition import PCA

    pca = PCA(min(NUM_COMPONENTS, *before.shape), random_state=0).fit(before)
    return pca.transform(before).astype(np.float32), pca.transform(after).astype(np.float32)


def main() -> None:
    """Run every method on every trial until its time is up."""
    warnings.simplefilter("ignore")
    ways, folder, budget = WAYS[sys.argv[1]], Path(sys.argv[2]), float(sys.argv[3])
    rng = np.random.default_rng(0)
    for name, ask in ways.items():
        ask(rng.random((60, 8), np.float32), rng.random((60, 8), np.float32))  # imports are not timed
        spent = 0.0
        for path in sorted(folder.glob("*.npz")):
            if spent > budget:
                break
            with np.load(path) as trial:
                before, after = trial["before"], trial["after"]
            started = time.process_time()
            alarm, named = ask(before, after)
            spent += (seconds := time.process_time() - started)
            print(json.dumps({"way": name, "alarm": alarm, "seconds": seconds, "names": named}), flush=True)


if __name__ == "__main__":
    main()
