"""Ask one drift tool about made trials; runs in the environment of that tool, which holds nothing of this project.

Arguments: tool, folder of trials (`<number>.npz` with `before` and `after`, rows of vectors), seconds it may take.
Prints one JSON line a trial: whether it raised an alarm, seconds of processor time, and what it names.

Every tool is used as its documentation shows for embeddings, with its own default limits.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

Rows = np.ndarray
Answer = tuple[bool, str]  # alarm, what it names


def evidently(before: Rows, after: Rows) -> Answer:
    """A classifier between both sets of rows, Evidently's default for embeddings."""
    import pandas as pd  # pyright: ignore[reportMissingImports]
    from evidently.legacy.metrics import EmbeddingsDriftMetric  # pyright: ignore[reportMissingImports]
    from evidently.legacy.pipeline.column_mapping import ColumnMapping  # pyright: ignore[reportMissingImports]
    from evidently.legacy.report import Report  # pyright: ignore[reportMissingImports]

    names = [f"d{index}" for index in range(before.shape[1])]
    report = Report(metrics=[EmbeddingsDriftMetric("vectors")])
    report.run(
        reference_data=pd.DataFrame(before, columns=names),
        current_data=pd.DataFrame(after, columns=names),
        column_mapping=ColumnMapping(embeddings={"vectors": names}),
    )
    return bool(report.as_dict()["metrics"][0]["result"]["drift_detected"]), ""


def nannyml(before: Rows, after: Rows) -> Answer:
    """Reconstruction error of a PCA, with three standard deviations over ten chunks of the reference."""
    import nannyml  # pyright: ignore[reportMissingImports]
    import pandas as pd  # pyright: ignore[reportMissingImports]

    names = [f"d{index}" for index in range(before.shape[1])]
    calculator = nannyml.DataReconstructionDriftCalculator(column_names=names, chunk_number=10)
    calculator.fit(pd.DataFrame(before, columns=names))
    found = calculator.calculate(pd.DataFrame(after, columns=names)).filter(period="analysis").to_df()
    return bool(found["reconstruction_error"]["alert"].any()), ""


def alibi_detect(before: Rows, after: Rows) -> Answer:
    """Kolmogorov-Smirnov tests of every dimension over rows, with Bonferroni's correction."""
    from alibi_detect.cd import KSDrift  # pyright: ignore[reportMissingImports]

    found = KSDrift(before, p_val=0.05).predict(after)["data"]
    return bool(found["is_drift"]), f"dimension {int(np.argmin(found['p_val']))}"


TOOLS: dict[str, Callable[[Rows, Rows], Answer]] = {
    "evidently": evidently,
    "nannyml": nannyml,
    "alibi-detect": alibi_detect,
}


def main() -> None:
    """Answer for every trial until the time is up."""
    warnings.simplefilter("ignore")
    tool, folder, budget = TOOLS[sys.argv[1]], Path(sys.argv[2]), float(sys.argv[3])
    tool(np.random.default_rng(0).random((50, 4)), np.random.default_rng(1).random((50, 4)))  # imports are not timed
    began = time.monotonic()
    for path in sorted(folder.glob("*.npz")):
        if time.monotonic() - began > budget:
            break
        with np.load(path) as trial:
            before, after = trial["before"], trial["after"]
        started = time.process_time()
        alarm, named = tool(before, after)
        print(json.dumps({"alarm": alarm, "seconds": time.process_time() - started, "names": named}), flush=True)


if __name__ == "__main__":
    main()
