"""The whole lineage through Dagster, on the built-in Postgres: the numbers of the library, and all of it on record."""

import json
import uuid

import dagster as dg
import pytest

from lvm_pipeline import lineage
from lvm_pipeline.adapters import databases, mlflow_registry
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.defs.launch import materialise_lineage, open_instance
from lvm_pipeline.errors import LvmError
from lvm_pipeline.sequences.schema import read_sequences_metadata
from lvm_pipeline_tests.defs.source_table import execute

pytestmark = pytest.mark.postgres

ASSETS = ["concepts", "sequences", "trained_model", "evaluation_report", "leaderboard", "champion"]
MEASURED_ANEW = {"latency_ms", "training_seconds"}  # times differ from run to run


@pytest.fixture
def make_home(make_settings, source, embedded_server, open_tmp_path_factory):
    """Make settings with a home and an MLflow store of their own, all on one source table."""

    def make():
        name = f"test_mlflow_{uuid.uuid4().hex[:12]}"
        databases.create_database(embedded_server, name)
        settings = make_settings(
            mlflow_tracking_uri=embedded_server.url(name).replace("postgresql:", "postgresql+psycopg2:", 1)
        )
        home = open_tmp_path_factory() / "lvm_home"
        home.mkdir()
        (home / "postgres").symlink_to(settings.postgres_dir.resolve(), target_is_directory=True)
        return settings.model_copy(update={"home": home})

    return make


def products(settings, architecture):
    return {
        "concepts": read_concepts_metadata(settings.concepts_path).fingerprint,
        "sequences": read_sequences_metadata(settings.sequences_path).fingerprint,
        "weights": (settings.models_dir / architecture / "model.safetensors").read_bytes(),
        "report": comparable(json.loads((settings.reports_dir / architecture / "report.json").read_text())),
        "champion": comparable(lineage.read_champion(settings)["decision"]),
    }


def comparable(value):
    """Leave out what is a time, or depends on one."""
    if isinstance(value, dict):
        left_out = MEASURED_ANEW | ({"findings"} if "report_version" in value else set())
        return {name: comparable(each) for name, each in value.items() if name not in left_out}
    return [comparable(each) for each in value if not is_timed(each)] if isinstance(value, list) else value


def is_timed(value):
    """Whether this is a finding whose numbers are times."""
    return isinstance(value, dict) and value.get("name") == "training_takes_under_an_hour"


def test_dagster_gives_the_numbers_of_the_library(make_home, source):
    with_dagster, without = make_home(), make_home()
    seen = []

    runs = materialise_lineage(with_dagster, ["gru"], on_progress=seen.append)
    bars = Bars()
    lineage.run(without, ["gru"], task=bars.task)

    first, second = products(with_dagster, "gru"), products(without, "gru")
    assert first["report"].pop("training").pop("history") is not None
    second["report"].pop("training")
    assert first == second
    assert {stage.stage for stage in seen if stage.state == "done"} == set(ASSETS)
    check_bars(bars, without)
    check_record(with_dagster, runs)
    check_refusal_of_harmed_data(with_dagster, source)


class Bars:
    """Keeps how each bar moved."""

    def __init__(self):
        self.moves = {}

    def task(self, description):
        moves = self.moves[description] = []
        return lambda done, total, note="": moves.append((done / total, note))


def check_bars(bars, settings):
    """A bar comes to its end once, when the stage is over, and a training then says what it scored."""
    stages = ["concepts", "sequences", "trained_model gru", "evaluation_report gru", "champion"]
    assert list(bars.moves) == stages
    for moves in bars.moves.values():
        assert [fraction for fraction, _ in moves if fraction >= 1] == [1]
        assert moves[-1][0] == 1
    score = lineage.latest_trial(settings, "gru").info().score
    assert bars.moves["trained_model gru"][-1][1] == f"validation cosine {score:.4f}"


def check_record(settings, runs):
    """The UI has everything to show: successful runs, materialisations with their links, checks, partitions."""
    with open_instance(settings) as instance:
        for run in runs:
            assert instance.get_run_by_id(run.dagster_run_id).status == dg.DagsterRunStatus.SUCCESS
        events = {name: instance.get_latest_materialization_event(dg.AssetKey(name)) for name in ASSETS}
        assert {events[name].run_id for name in ASSETS} == {run.dagster_run_id for run in runs}
        assert instance.get_materialized_partitions(dg.AssetKey("evaluation_report")) >= {"gru"}
        metadata = {name: event.asset_materialization.metadata for name, event in events.items()}
    report = json.loads((settings.reports_dir / "gru" / "report.json").read_text())
    scored, board = metadata["evaluation_report"], metadata["leaderboard"]
    assert scored["cosine"].value == pytest.approx(report["cosine"], rel=1e-3)
    assert next(iter(scored)) == next(iter(board)) == "Verdict"
    assert f"Cosine {report['cosine']:.4f}; " in scored["Verdict"].value
    assert scored["details"].data["fingerprint"] == report["fingerprint"]
    assert scored["report"].value == settings.page_url(settings.trials_dir / report["trial_id"] / "report.html")
    assert board["report"].value == f"http://127.0.0.1:{settings.reports_port}/reports/leaderboard.html"
    assert min(name for name in scored if "/" not in name) == "Verdict", "the UI sorts by name"
    assert "data:image/svg+xml;base64," in board["models_beside_baselines"].value
    assert metadata["evaluation_report"]["mlflow_run"].value == metadata["trained_model"]["mlflow_run"].value
    assert "data:image/svg+xml;base64," in metadata["evaluation_report"]["learning curves"].value
    assert "**gru" in metadata["leaderboard"]["leaderboard"].value
    champion = mlflow_registry.champion(settings)
    assert metadata["champion"]["is_promoted"].value == (champion is not None)
    assert settings.champion_concepts_path.exists() == (champion is not None)


def check_refusal_of_harmed_data(settings, source):
    """A source that breaks afterwards changes none of the products."""
    before = products(settings, "gru")
    execute(source.url, "UPDATE cpe_entry SET concept_text = '' WHERE sequence_index = 4")

    with pytest.raises(LvmError, match="texts_are_not_empty"):
        materialise_lineage(settings, ["gru"])

    assert products(settings, "gru") == before
