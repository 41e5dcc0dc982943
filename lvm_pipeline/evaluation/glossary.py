"""What each column of a report means; shown in reports and in the README."""

# What it means if a model gains in cosine and is below the baseline in another measure.
DESPITE_A_GAIN = {
    "centred cosine": "part of the gain comes from the direction that all vectors share",
    "MRR": "predictions are worse at finding the true concept among others",
}

COLUMNS: dict[str, str] = {
    "cosine": (
        "Cosine of prediction and true next vector, mean over targets; 1 is perfect. The primary metric: it "
        "selects checkpoints, the best baseline and the champion."
    ),
    "gain": (
        "Mean difference in cosine, model minus baseline, on the same targets, with its 95 % interval. The "
        "interval is a bootstrap over whole articles, since neighbouring concepts are alike. An interval above "
        "zero means a real gain."
    ),
    "centred cosine": (
        "Cosine after the mean train vector is subtracted from both sides, which removes the direction that all "
        "vectors share."
    ),
    "MSE": "Squared error, mean over the dimensions of a vector.",
    "L2": "Euclidean distance of prediction and true vector.",
    "norm ratio": "Length of the prediction over length of the true vector.",
    "R@k": "Share of targets whose true concept is among the k candidates closest to the prediction.",
    "MRR": (
        "Mean of 1 / rank of the true concept; ties count against the prediction. Of more than 16,384 targets, an even "
        "sample is ranked."
    ),
    "median rank": "Half of the true concepts rank here or better.",
    "pool": (
        "The candidates for retrieval: all concepts of the scored split, without those that the named rule "
        "excludes. Figures with different pools cannot be compared."
    ),
    "context": "What a model reads: a few concepts before the target, or everything before it in its article.",
    "latency": "Time of one prediction with batch size 1, after a warm-up: p50 is the median, p95 the 95th percentile.",
    "order shuffled, wrong context": (
        "Controls: the same concepts in another order, or the context of another article. If the cosine stays the "
        "same with another order, the model does not use the order; if it stays the same with the context of another "
        "article, it does not use its context."
    ),
    "leaking": "Train and validation share articles or windows, so the scores say nothing about unseen articles.",
}
