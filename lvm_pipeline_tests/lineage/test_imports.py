import json
import subprocess
import sys

import pytest

from lvm_pipeline import lineage

MODULES = "import json, sys; {} print(json.dumps(sorted(sys.modules)))"


def modules_after(program):
    done = subprocess.run([sys.executable, "-c", MODULES.format(program)], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_every_name_of_the_stages_is_found_and_others_are_not():
    assert callable(lineage.run)
    assert lineage.TrialFolder.__module__ == "lvm_pipeline.lineage.trials"
    for name in lineage._modules_of_names():
        assert getattr(lineage, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        lineage.runn  # noqa: B018


def test_a_prediction_waits_for_no_database_driver_and_no_statistics():
    modules = modules_after("import lvm_pipeline.cli, lvm_pipeline.lineage.prediction, lvm_pipeline.inference.predict;")

    assert "lvm_pipeline.lineage.prediction" in modules
    assert modules.isdisjoint({"psycopg", "scipy", "sklearn", "mlflow", "dagster", "lvm_pipeline.lineage.data"})


def test_reports_and_the_leaderboard_are_read_without_torch():
    pages = "leaderboard_page, report_page, standing_tables, rollout_pages"
    modules = modules_after(f"import lvm_pipeline.cli; from lvm_pipeline.evaluation import leaderboard, {pages};")

    assert "lvm_pipeline.evaluation.leaderboard" in modules
    assert modules.isdisjoint({"torch", "sklearn", "mlflow", "dagster"})
