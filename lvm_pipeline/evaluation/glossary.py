"""What each column of a report means, in plain words: the reports and the README show these."""

COLUMNS: dict[str, str] = {
    "cosine": (
        "How well prediction and true next vector point the same way, mean over targets; 1 is perfect. The primary "
        "metric: it chooses checkpoints, the best baseline and the champion."
    ),
    "gain": (
        "Mean difference in cosine, model minus baseline, on the same targets, with its 95 % interval. Whole articles "
        "are resampled for it, since neighbouring concepts are alike. An interval above zero means a real gain."
    ),
    "centred cosine": (
        "Cosine after the mean train vector is taken off both sides: what all vectors share earns nothing."
    ),
    "MSE": "Squared error, mean over the numbers of a vector.",
    "L2": "Length of the error.",
    "norm ratio": "Length of the prediction over length of the true vector.",
    "R@k": "Share of targets whose true concept is among the k candidates closest to the prediction.",
    "MRR": "Mean of 1 / rank of the true concept; ties count against the prediction.",
    "median rank": "Half of the true concepts rank here or better.",
    "pool": (
        "The candidates: all concepts of the scored split, less those that the named rule leaves out. Figures of other "
        "pools cannot be compared."
    ),
    "context": "What a model reads: the few concepts before the target, or everything before it in its article.",
    "latency": "Time of one prediction alone, after a warm-up: half are faster than p50, 95 % faster than p95.",
    "order shuffled, wrong context": (
        "Controls: the same concepts in another order, or those of another article. Where the cosine stays, the model "
        "does not use its context."
    ),
    "leaking": "Train and validation share articles or windows, so the scores say nothing about unseen articles.",
}
