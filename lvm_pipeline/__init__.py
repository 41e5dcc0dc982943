"""Training pipeline for latent vector models (LVM): read a run of concept vectors, predict the next one.

Read the folders in this order; each imports only what stands above it.

    errors, files, findings, settings, alerts            words that everything below shares
    source/          text becomes rows of `cpe_entry` and `cpe_vectors`
    concepts/        those rows become the ordered concept table (Parquet)
    sequences/       the concept table becomes contexts with their targets, split by article
    exchange/        NPZ files in and out; any data file becomes concepts and sequences
    architectures/   what predicts, one module each
    measures/        how good a prediction is, beside what arithmetic alone reaches
    training/        sequences become a trained model
    evaluation/      a trained model becomes a report, all reports a leaderboard
    inference/       a trained model reads concepts as they come and predicts the next
    experiments/     which trained model is the champion
    adapters/        everything outside the process: Postgres, MLflow, child processes, messages
    lineage          one function a stage, from the table to the champion
    doctor/          what could be wrong around all this, with its fix
    defs/, definitions, cli   the two thin shells over it: Dagster and the command `lvm`
"""
