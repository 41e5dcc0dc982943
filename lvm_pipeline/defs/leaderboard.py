"""evaluation_report -> leaderboard: all architectures beside the baselines, on the same rows."""

import dagster as dg

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.defs.evaluation_report import evaluation_report
from lvm_pipeline.defs.partitions import RESULTS_POOL
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.settings import Settings

SHOWN = ("rank", "predictor", "cosine", "gain over the best baseline", "R@1", "R@10", "MRR", "champion")


@dg.asset(deps=[evaluation_report], pool=RESULTS_POOL, group_name="results", kinds={"html"})
def leaderboard(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Every trial that has a report on the present sequences, and the baselines, by cosine (JSON and HTML)."""
    from lvm_pipeline.evaluation.leaderboard import headline
    from lvm_pipeline.evaluation.leaderboard_page import leaderboard_html, leaderboard_table
    from lvm_pipeline.evaluation.leaderboard_plot import models_beside_baselines

    with lvm_errors_as_failures(), stage_shown(settings, "leaderboard"):
        board = lineage.build_leaderboard(settings)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(" ".join(sorted(row.model_fingerprint[:16] for row in board.models))),
        metadata={
            metadata.VERDICT: headline(board),
            **metadata.page(settings, settings.reports_dir / "leaderboard.html"),
            "models_beside_baselines": metadata.picture(
                models_beside_baselines(board), title="Models beside baselines", page=leaderboard_html(board)
            ),
            **metadata.numbers({"best_cosine": max(row.cosine for row in board.models)}),
            metadata.ROW_COUNT: len(board.rows),
            "num_models": len(board.models),
            "leaderboard": dg.MetadataValue.md(leaderboard_table(board).only(*SHOWN).markdown()),
            "left_out": metadata.markdown_list([f"{each.name}: {each.reason}" for each in board.left_out]),
            "not_checked": metadata.markdown_list(board.not_checked),
            **metadata.folded({"is_leaking": board.leak_reason is not None, "fingerprint": board.fingerprint}),
        },
    )
