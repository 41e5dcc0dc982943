"""The command line as a person meets it: what it prints, its exit code, and what mistakes lead to."""

import json
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvm_pipeline.cli import commands
from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.findings import Finding, Severity
from lvm_pipeline.settings import load_settings
from lvm_pipeline.words import counted
from lvm_pipeline_tests.synthetic import synthetic_table, write_synthetic_concepts

ARTICLE_LENGTHS = [12, 9, 14, 3, 11, 8, 10, 13]
NUM_WINDOWS = sum(max(0, length - 5) for length in ARTICLE_LENGTHS)


@pytest.fixture
def given_parquet(tmp_path):
    """A Parquet file as others make it: four columns, float64 lists."""
    table = synthetic_table(ARTICLE_LENGTHS).select(["article_id", "position", "concept_text", "vector"])
    vectors = table["vector"].cast(pa.list_(pa.float64(), 32)).combine_chunks().to_pylist()
    path = tmp_path / "given.parquet"
    pq.write_table(table.set_column(3, "vector", pa.array(vectors, pa.list_(pa.float64()))), path)
    return path


def test_architectures_are_listed_with_their_exact_sizes(lvm):
    code, out, _ = lvm("list", "architectures", "--json")

    rows = {(row["name"], row["preset"]): row for row in json.loads(out)}
    assert code == 0
    assert abs(rows["lstm", "full"]["num_params"] - 10e6) < 0.3e6
    assert rows["gru", "small"]["causal"] is True
    assert {preset for name, preset in rows if name == "gru"} == {"smoke", "small", "full"}


def test_defaults_of_options_are_shown_as_set_takes_them(lvm):
    code, out, _ = lvm("list", "options", "--architecture", "s4")
    as_json = {row["option"]: row["default"] for row in json.loads(lvm("list", "options", "--json")[1])}

    shown = {line.split()[0]: line.split()[1:2] for line in out.splitlines() if line and line[0] != " "}
    assert code == 0
    assert (shown["compile"], as_json["compile"]) == (["False"], False)
    assert shown["epochs"] == [str(as_json["epochs"])]


@pytest.mark.parametrize(("words", "meant"), [(["trian"], "train"), (["plan", "rn"], "run")])
def test_a_misspelt_command_names_what_was_meant_once(lvm, words, meant):
    code, _, err = lvm(*words)

    assert code == 2
    assert err.count(f"Did you mean '{meant}'?") == 1


@pytest.mark.postgres
def test_a_file_is_loaded_once_and_verified(lvm, given_parquet, postgres_url, monkeypatch):
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)

    code, out, _ = lvm("ingest", given_parquet, "--json")
    assert (code, json.loads(out)["num_inserted"]) == (0, sum(ARTICLE_LENGTHS))
    assert json.loads(lvm("ingest", given_parquet, "--json")[1])["num_inserted"] == 0

    code, out, _ = lvm("verify", "--json")
    verification = json.loads(out)
    assert code == 0
    assert verification["passed"] is True
    assert verification["concepts"]["num_articles"] == len(ARTICLE_LENGTHS)
    assert verification["sequences"]["num_windows"] == NUM_WINDOWS
    assert {finding["name"] for finding in verification["findings"]} >= {
        "order_is_unambiguous",
        "window_count_is_exact",
    }


@pytest.mark.postgres
def test_a_file_goes_to_the_dataset_source_that_is_set(lvm, given_parquet, postgres_url, monkeypatch):
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    assert json.loads(lvm("ingest", given_parquet, "--json")[1])["dataset_source"] == "user_input"
    monkeypatch.setenv("LVM_DATASET_SOURCE", "ours")

    assert json.loads(lvm("ingest", given_parquet, "--json")[1])["dataset_source"] == "ours"
    named = lvm("ingest", given_parquet, "--dataset-source", "theirs", "--json")[1]
    assert json.loads(named)["dataset_source"] == "theirs"


@pytest.mark.postgres
def test_verify_fails_on_a_broken_source_and_leaves_no_product(lvm, given_parquet, postgres_url, monkeypatch, tmp_path):
    import psycopg

    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    lvm("ingest", given_parquet)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DELETE FROM cpe_entry WHERE sequence_index = 2")

    code, out, _ = lvm("verify")

    assert code == 1
    assert "positions_have_no_gap, what to do: Load the listed articles again" in out
    assert not list((tmp_path / "lvm_home" / "data").glob("**/*.parquet"))


def test_drift_is_shown_and_fails_only_where_asked(lvm):
    settings = load_settings()
    write_synthetic_concepts(settings.concepts_path, article_lengths=[8] * 30, seed=1)

    code, out, _ = lvm("drift")
    assert code == 0
    assert "there is no champion" in out

    write_synthetic_concepts(settings.champion_concepts_path, article_lengths=[8] * 60, seed=1)
    code, out, _ = lvm("drift")
    assert code == 0
    assert "240 concepts in 30 articles, 0.50 times the 480 in 60" in out
    assert "drift.md" in out
    code, out, _ = lvm("drift", "--json", "--fail")
    assert code == 1
    assert json.loads(out)["has_drifted"] is True


@pytest.mark.postgres
def test_a_bad_line_is_reported_by_number_and_nothing_of_its_file_is_loaded(lvm, tmp_path, postgres_url, monkeypatch):
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    path = tmp_path / "articles.jsonl"
    path.write_text('{"title": "Good", "concepts": ["One thing.", "Another thing."]}\nno json\n')

    code, _, err = lvm("ingest", path)

    assert code == 1
    assert "line 2" in err
    assert "was not loaded" in err
    assert "lvm ingest FILE" in lvm("verify")[2]


def test_no_database_is_one_sentence_without_the_password(lvm, monkeypatch):
    monkeypatch.setenv("LVM_DATABASE_URL", "postgresql://somebody:s3cret@127.0.0.1:1/nowhere")

    code, out, err = lvm("verify")

    assert code == 1
    assert "No Postgres answers at postgresql://somebody@127.0.0.1:1/nowhere" in err.replace("\n", " ")
    assert "s3cret" not in out + err
    assert "Traceback" not in out + err


def test_a_background_job_can_be_interrupted(lvm):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        lvm("settings")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_settings_are_shown_without_secrets(lvm, monkeypatch):
    monkeypatch.setenv("LVM_DATABASE_URL", "postgresql://somebody:s3cret@127.0.0.1:1/nowhere")

    code, out, _ = lvm("settings", "--json")

    assert code == 0
    assert {"LVM_HOME", "LVM_DATABASE_URL"} <= {row["variable"] for row in json.loads(out)}
    assert "s3cret" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--architecture", "mamba9"), "There is no architecture mamba9; there are"),
        (("run", "--preset", "huge"), "lstm has no preset 'huge'; it has smoke, small, full"),
        (("run", "--set", "model.hidden_dm=8"), "LstmConfig has no field 'hidden_dm'; did you mean hidden_dim?"),
        (("train", "--architecture", "lstm", "--preset", "huge"), "no concept table"),
        (("train", "--data", "nowhere.npz"), "There is no file nowhere.npz"),
        (("evaluate", "--model", "nowhere"), "nowhere"),
        (("predict", "--model", "nowhere"), "There is no trained model in nowhere"),
        (("predict", "--architecture", "gru"), "No trial of gru is trained yet"),
        (("predict", "--trial", "gru-small"), "There is no trained trial 'gru-small'; the trained trials are: none"),
        (("train", "--set", "patience"), "--set takes NAME=VALUE"),
        (("train", "--set", "patients=2"), "no training option 'patients'; did you mean patience?"),
        (("train", "--epochs", "0"), "epochs: input should be greater than or equal to 1"),
        (("leaderboard",), "There is no sequence table"),
        (("drift",), "There is no concept table"),
        (("export", "somewhere"), "There is no concept table"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_one(lvm, arguments, message):
    code, out, err = lvm(*arguments)

    assert code == 1
    assert message in err
    assert "Traceback" not in out + err


def test_an_invalid_setting_is_named(lvm, monkeypatch):
    monkeypatch.setenv("LVM_CONTEXT_LENGTH", "five")

    code, _, err = lvm("settings")

    assert code == 1
    assert "LVM_CONTEXT_LENGTH" in err


@pytest.mark.postgres
def test_a_model_is_trained_and_scored_on_a_given_file(lvm, given_parquet, lvm_home, tmp_path, monkeypatch):
    model, results = tmp_path / "model", tmp_path / "results.json"
    options = ["--hidden-dim", 24, "--num-layers", 1, "--batch-size", 32, "--epochs", 1]

    code, _, err = lvm("train", "--data", given_parquet, *options, "--preset", "smoke", "--output", model)
    assert (code, err) == (0, "")
    assert json.loads((model / "trained_model.json").read_text())["config"]["hidden_dim"] == 24

    code, out, _ = lvm("evaluate", "--model", model, "--test-data", given_parquet, "--output", results)
    report = json.loads(results.read_text())
    counts = report["counts"]
    scored = counted(counts["targets"], "target"), counted(counts["articles"], "validation article")
    assert (code, f"Scored on {scored[0]} of {scored[1]}; the baselines are fitted on" in out) == (0, True)
    assert report.keys() >= {"cosine", "centred_cosine", "mse", "fingerprint", "space_id", "best_baseline"}
    assert report["retrieval"][report["pool"]["exclusion"]].keys() >= {"r_at_1", "r_at_5", "r_at_10", "mrr"}
    assert report["baselines"][report["best_baseline"]]["gain"].keys() == {"mean", "low", "high"}
    assert report["latency_ms"].keys() >= {"p50", "p95"}
    assert report["baselines"].keys() >= {"copy_last", "context_mean", "recency_weighted_mean", "global_mean", "ridge"}
    assert results.with_suffix(".html").is_file()


@pytest.mark.postgres
def test_products_travel_as_npz(lvm, given_parquet, postgres_url, lvm_home, tmp_path, monkeypatch):
    from lvm_pipeline import lineage

    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    lvm("ingest", given_parquet)
    settings = load_settings()
    lineage.promote_concepts(settings, lineage.stage_concepts(settings))
    lineage.promote_sequences(settings, lineage.stage_sequences(settings))

    assert lvm("export", tmp_path / "exchange")[0] == 0
    (ordered,) = (tmp_path / "exchange").glob("*_ordered.npz")
    settings.concepts_path.unlink()
    code, out, err = lvm("import", ordered)

    assert (code, err) == (0, "")
    assert read_concepts_metadata(settings.concepts_path).num_concepts == sum(ARTICLE_LENGTHS)
    assert f"{NUM_WINDOWS} sequences" in out

    kept = (settings.concepts_path, settings.sequences_path)
    for path in kept:
        path.write_bytes(b"earlier")
    failed = Finding(name="windows_stay_inside_articles", passed=False, severity=Severity.BLOCKING, message="crossed")
    monkeypatch.setattr("lvm_pipeline.lineage.data.check_sequences", lambda *_, **__: [failed])
    code, _, err = lvm("import", ordered)

    assert code == 1
    assert "crossed" in err
    assert [path.read_bytes() for path in kept] == [b"earlier", b"earlier"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("list", "trials"), "There is no trained trial yet; train one with `lvm train` or `lvm run`."),
        (("champion",), "No model has been chosen yet. `lvm run` trains models and chooses one"),
    ],
)
def test_an_empty_home_says_what_to_do_next(lvm, words, expected):
    code, out, _ = lvm(*words)

    assert (code, expected in out) == (0, True)


def test_after_ctrl_c_a_training_says_how_to_go_on(lvm, monkeypatch):
    def interrupted(**_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "settings_of", interrupted)

    code, _, err = lvm("train")

    assert (code, err) == (130, "Interrupted. Run the same command again to resume.\n")
