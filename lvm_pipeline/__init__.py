"""Training pipeline for latent vector models (LVM): read a run of concept vectors, predict the next one.

Read the folders in this order; each imports only those above it, except that `settings` declares the options of
`training.config`.

    errors, tables, chat, imports, files   shared by everything below
    findings/, settings, unknown_variables
    source/          text -> rows of `cpe_entry` and `cpe_vectors`
    concepts/        those rows -> the ordered concept table (Parquet); drift
    sequences/       the concept table -> contexts with their targets, split by article
    exchange/        NPZ and Parquet files in and out
    architectures/   the models, one module each
    measures/        metrics, retrieval, baselines, confidence intervals
    decoding/        vectors -> text: the nearest concept, the prefix decoder
    training/        sequences -> a trained model: trial, options, phases, strategies, loop
    evaluation/      a trained model -> a report; all reports -> a leaderboard
    inference/       streaming prediction
    experiments/     many trained models: plan, study, refinement, ensembles, the champion rule
    serving/         the model server
    adapters/        everything outside the process: Postgres, MLflow, child processes, messages
    lineage/         one function per stage, from the source table to the champion; trials on disk
    doctor/          checks of the environment, each with its fix
    defs/, definitions, cli/   the two thin shells: Dagster and the command `lvm`
"""
