"""The stages with their products: what asset bodies and `lvm run` both call.

Each function takes the settings, makes the library calls of one stage and returns a small record. Products are staged,
checked, and promoted only when no blocking finding failed, so a product that exists has passed. Nothing here knows of
Dagster; torch, MLflow and scikit-learn are imported by the functions that need them, so that a code server which only
lists the assets stays small. The names below are imported from their modules when they are first asked for: a command
needs few of them.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lvm_pipeline.lineage.champion import choose_champion, hold_champion
    from lvm_pipeline.lineage.data import (
        StagedConcepts,
        StagedSequences,
        Verification,
        check_staged_concepts,
        checked_sequences,
        extract_options,
        ingest_demo_corpus,
        ingest_file,
        observe_source,
        promote_concepts,
        promote_sequences,
        promote_with_sequences,
        reported_findings,
        sequence_options,
        source_reader,
        stage_concepts,
        stage_sequences,
        verify_products,
        verify_source,
    )
    from lvm_pipeline.lineage.data_lock import data_locked
    from lvm_pipeline.lineage.decoders import TextDecoder, decode_lines, search_of, train_text_decoder
    from lvm_pipeline.lineage.drift import check_drift
    from lvm_pipeline.lineage.ensembles import make_ensemble, top_trials
    from lvm_pipeline.lineage.invariants import INVARIANTS
    from lvm_pipeline.lineage.launching import train_launched
    from lvm_pipeline.lineage.models import TrainedTrial, train_trial, training_config_of
    from lvm_pipeline.lineage.plan import plan_rows, write_study
    from lvm_pipeline.lineage.plan_run import PlanRun, plan_tracker, run_plan
    from lvm_pipeline.lineage.preference import collect_study, create_study, study_status
    from lvm_pipeline.lineage.products import (
        ProductVerification,
        check_concepts_product,
        check_ensemble,
        check_latest_report,
        check_model,
        check_sequences_product,
        verify_all_products,
    )
    from lvm_pipeline.lineage.results import (
        build_leaderboard,
        champions_trial,
        evaluate_architecture,
        evaluate_trial,
        make_learning_curve,
        read_champion,
        refuse_unknown_names,
        retrained_architectures,
        trial_rows,
    )
    from lvm_pipeline.lineage.smoothing import smooth_trial
    from lvm_pipeline.lineage.trials import (
        TrialFolder,
        latest_trial,
        move_earlier_layout,
        named_trial,
        read_tracking,
        trained_trials,
    )
    from lvm_pipeline.lineage.whole import run


def __getattr__(name: str) -> Any:
    module = _modules_of_names().get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found


@cache
def _modules_of_names() -> dict[str, str]:
    """Return the module of each name that is imported for type checkers above."""
    imports = (node for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8"))))
    return {
        alias.name: node.module
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(f"{__name__}.")
        for alias in node.names
    }
