"""Every script in `benchmarks/` runs, measures what it says and judges by its own goal; how fast is not judged here."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from lvm_pipeline.architectures._registry import architecture_names, load_architecture
from lvm_pipeline_tests.measured import BENCHMARKS, rows_in, rows_of


@pytest.mark.slow
@pytest.mark.postgres
def test_extraction_is_measured_against_pandas_on_the_same_rows():
    rows = rows_of("extraction.py", "--repeats", "1", "--rows", "300")

    assert rows["pandas"]["goal"] == 7
    assert rows["peak memory under 500 MB"]["peer"] == 500
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert row["met"] == (row["ratio"] >= row["goal"])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.postgres
def test_extraction_is_measured_at_two_sizes_and_after_changes_and_a_kill():
    rows = rows_of("extraction.py", "--scale", "200", "10000")

    assert [row["goal"] for row in rows.values()] == [0.8, 1, 1, 1]
    changed, read = re.findall(r"full; (\d+) articles changed, (\d+) read", " ".join(rows))[0]
    assert int(changed) == int(read) > 0


@pytest.mark.slow
@pytest.mark.long
def test_the_script_without_a_limit_trains_twice_alike():
    rows = rows_of("larger_than_memory.py", "--concepts", "1000", "--limit-mb", "0", "--preset", "smoke")

    assert [(row["losses_are_equal"], row["goal"]) for row in rows.values()] == [(True, 0.7)]


def test_the_measured_encoding_is_the_one_that_is_used():
    rows = rows_of("parquet_encodings.py", "--repeats", "1", "--rows", "64")

    assert rows["MB: plain, uncompressed"]["met"]


@pytest.mark.slow
@pytest.mark.long
def test_training_is_measured_beside_the_plain_loop():
    rows = rows_of("training.py", "--repeats", "1")

    share = rows.pop("lstm articles, share of the matrix rate")
    assert share["ours"] == rows["lstm articles"]["share_of_matmul_rate"]
    assert share["met"] == (share["ours"] >= 0.5)
    assert rows.keys() == {"lstm articles", "lstm windows"}
    assert rows["lstm articles"]["goal"] in (10, None)  # None in float32
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
        assert row["met"] == (None if row["goal"] is None else row["ratio"] >= row["goal"])
        assert row["share_of_matmul_rate"] == pytest.approx(row["gflops_per_second"] / row["matmul_gflops_per_second"])


@pytest.mark.slow
@pytest.mark.long
def test_near_duplicates_are_measured_beside_brute_force_and_none_is_missed():
    rows = rows_of("near_duplicates.py", "--repeats", "1", "--rows", "2000")

    assert [name.partition(": ")[2] for name in rows] == ["brute force", "1 s for 10,000", "bounded memory"]


@pytest.mark.slow
@pytest.mark.long
def test_drift_is_judged_by_alarms_misses_and_time():
    rows = rows_of(
        "drift.py", "--articles", "20", "--resamples", "2", "--injections", "2", "--rows", "400", "--repeats", "1"
    )

    rates = {
        "false alarms, 20 articles",
        "misses of 10 % added, 20 articles",
        "misses of 10 % among others, 20 articles",
    }
    assert rows.keys() > rates
    assert all(0 <= rows[name]["ours"] <= 1 for name in rates)


@pytest.mark.slow
@pytest.mark.long
def test_architectures_are_measured_beside_transformers():
    pytest.importorskip("transformers", reason="the peers are modules of transformers, of the extra `encoders`")
    options = ("--preset", "smoke", "--seconds", "0", "--processor-time")
    rows = rows_of("architectures.py", *options, "--architecture", "lstm", "--architecture", "mamba2")

    alone = ("windows", "articles", "prediction", "step")
    beside = {
        f"mamba2 smoke {what}, Mamba2Model, chunk {chunk}"
        for what in ("windows of 32", "prediction")
        for chunk in (8, 256)
    }
    assert rows.keys() == {f"{name} smoke {what}" for name in ("lstm", "mamba2") for what in alone} | beside
    for name, row in rows.items():
        assert row["ours"] > 0
        assert row["goal"] is None or row["met"] == (row["ratio"] >= row["goal"])
        if name in beside:
            ratio = row["ours"] / row["peer"]
            assert row["ratio"] == pytest.approx(ratio if "windows" in name else 1 / ratio)
    row = rows["mamba2 smoke articles"]
    operations_each_second = row["ours"] * row["gflops_per_target"]
    assert row["share_of_matmul_rate"] == pytest.approx(operations_each_second / row["matmul_gflops_per_second"])


@pytest.mark.slow
@pytest.mark.long
def test_drift_beside_other_tools_says_which_are_not_installed(tmp_path):
    sizes = ("--articles", "40", "--resamples", "2", "--injections", "1")
    cases = ("unchanged", "20% changed")
    chosen = [option for case in cases for option in ("--case", case)]
    rows = rows_of("drift.py", "--peers", *sizes, "--environments", str(tmp_path), *chosen)

    assert {row["case"] for row in rows.values()} == set(cases)
    assert rows["unchanged: ours"]["num"] == 2
    assert rows["unchanged: ours"]["ours"] == 0
    assert rows["20% changed: ours"]["ours"] == rows["20% changed: ours"]["names"] == 1
    for tool in ("evidently", "nannyml", "alibi-detect"):
        assert rows[f"unchanged: {tool}"]["problem"] == f"not installed in {tmp_path / tool}"


@pytest.mark.slow
@pytest.mark.long
def test_only_the_mixing_head_has_a_state_that_grows():
    options = ("--preset", "smoke", "--lengths", "2", "40", "--json")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "heads.py"), *options], capture_output=True, text=True, check=True
    )
    rows = {row["head"]: row for row in json.loads(done.stdout)["heads"]}
    grows = {head: row["state_kb_at_40"] > row["state_kb_at_2"] for head, row in rows.items()}
    assert grows == {"mixing": True, "means": False, "none": False}
    assert all(row["targets_per_second"] > 0 and row["step_ms_at_40"] > 0 for row in rows.values())


@pytest.mark.slow
def test_the_model_server_is_measured_under_load():
    options = ("--architecture", "gru", "--preset", "smoke", "--concepts", "500", "--width", "32", "--seconds", "1")
    rows = rows_of("serving.py", *options)

    assert rows.keys() == {"1 client", "8 clients", "32 clients"}
    assert {name for name, row in rows.items() if row["goal"]} == {"8 clients"}
    for row in rows.values():
        server, whole = row["server_ms"], row["end_to_end_ms"]
        assert 0 < server["p50"] <= server["p95"] <= server["p99"]
        assert server["p50"] <= whole["p50"]
        assert row["ratio"] == pytest.approx(min(50 / server["p95"], 150 / whole["p95"]))


def gpu_figures(folder, *architectures):
    """What `gpu.sh` writes for smoke presets on a CPU."""
    options = ["--device", "cpu", "--preset", "smoke", "--concepts", "300", "--seconds", "0", "--epochs", "1"]
    options += ["--large-batch", "600", "--minutes", "14"]
    chosen = [option for name in architectures for option in ("--architecture", name)]
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(folder), "OMP_NUM_THREADS": "1"}
    command = [str(BENCHMARKS / "gpu.sh"), *options, *chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "gpu.json").read_text())
    assert done.stdout.strip() == (folder / "gpu.md").read_text().strip()
    return found, done.stdout


def check_gpu_figures(found, table, names):
    assert found["finished"]
    assert found["architectures"].keys() == set(names)
    for name in names:
        parts = {row["part"]: row for row in found["architectures"][name]["rows"]}
        modes = ["articles", "windows"] if load_architecture(name).causal else ["windows"]
        assert parts.keys() == {*(f"training {mode}" for mode in modes), "evaluation", "prediction"}, parts
        for mode in modes:
            row = parts[f"training {mode}"]
            assert row["targets_per_second"] == max(row["rates_by_batch"].values()) > 0
            assert row["epochs_seconds"] > 0
        assert parts["prediction"]["p95_ms"] >= parts["prediction"]["p50_ms"] > 0
        assert -1 <= parts["evaluation"]["cosine"] <= 1
        assert f"| {name} | " in table
    assert "missing" not in table
    assert found["resume"]["largest_relative_difference"] == 0  # bit for bit on a CPU
    assert "Killed half-way and resumed" in table


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_gpu_benchmark_runs_end_to_end_on_a_cpu(tmp_path):
    names = ("linformer", "lstm")
    check_gpu_figures(*gpu_figures(tmp_path, *names), names)


@pytest.mark.slow
def test_the_gpu_benchmark_measures_the_memory_of_a_middle_size_and_goes_on_after_an_error(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_work

    monkeypatch.setattr(gpu_work, "MIDDLE_SIZES", (0, 1e9))
    work = gpu_work.Work(
        **{"architecture": "gru", "preset": "smoke", "device": "cpu", "precision": "float32", "concepts": 300},
        **{"epochs": 1, "large_batch": 600, "seconds": 0.0, "matmul_rate": 1e11, "peak_rate": None},
    )
    monkeypatch.setattr(gpu_work.Measurement, "evaluation", lambda self: 1 / 0)

    rows = {row["part"]: row for row in gpu_work.rows_of(work, deadline=time.monotonic() + 300)}

    assert rows["memory"]["peak_gb"] > 0
    assert "prediction" in rows
    assert [row["why_not"] for row in rows.values() if "why_not" in row] == ["ZeroDivisionError: division by zero"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_gpu_benchmark_measures_every_architecture(tmp_path):
    check_gpu_figures(*gpu_figures(tmp_path), architecture_names())


@pytest.fixture(scope="module")
def smoke_rows():
    """The rows of all benchmarks in their smoke form, by script."""
    rows = {}
    for row in rows_in("bench.py", "--smoke"):
        rows.setdefault(row["script"], []).append(row)
    return rows


@pytest.mark.slow
def test_a_report_is_measured_and_only_a_large_table_is_judged(smoke_rows):
    rows = smoke_rows["evaluation.py"]

    assert len({row["name"] for row in rows}) == len(rows) == 3
    for row in rows:
        assert row["met"] is None
        assert row["baselines"] == len(row["mrr"]) == 8
        assert row["targets"] < row["pool"] < 3000


@pytest.mark.slow
def test_a_large_table_is_judged_by_what_a_small_one_predicts(smoke_rows):
    rows = smoke_rows["growth.py"]

    assert len({row["name"] for row in rows}) == len(rows) == 6
    for row in rows:
        power = 1.5 if "near-duplicates" in row["name"] else 1
        assert row["peer"] == pytest.approx(row["small"] * 3**power)
        assert row["met"] == (row["peer"] / row["ours"] >= 0.8)


@pytest.mark.slow
@pytest.mark.postgres
def test_a_refresh_by_dagster_is_measured_beside_the_command_line():
    rows = rows_of("orchestration.py", "--articles", "60")

    assert {name: row["goal"] for name, row in rows.items()} == {
        "processor s of a refresh by Dagster": 0.5,
        "s of a refresh by Dagster": None,
    }
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])


def test_texts_and_vectors_are_judged_by_alarms_with_and_without_a_fault():
    rows = rows_of("text_match.py", "--resamples", "2", "--injections", "1", "--articles", "60", "--rows", "400")

    assert rows["made: false alarms"]["ours"] == 0
    assert rows["made: shifted by one found"]["ours"] == 1
    assert rows["made: seconds"]["peer"] == 10
    assert rows["made: seconds"]["ratio"] == pytest.approx(10 / rows["made: seconds"]["ours"])


def test_the_table_of_all_benchmarks_has_a_smoke_form_and_names_what_fails():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import bench
    finally:
        sys.path.remove(str(BENCHMARKS))
    found, problem = bench.run(
        bench.Script(name="parquet_encodings.py", smoke=("--rows", "64", "--repeats", "1")), is_smoke=True
    )
    assert problem is None
    table = bench.as_table(found)
    assert f"of {sum(row['met'] is not None for row in found)} goals met." in table
    assert bench.run(bench.Script(name="no_such_script.py"), is_smoke=False)[1].startswith("no_such_script.py failed")


@pytest.mark.slow
def test_every_benchmark_runs_in_its_smoke_form(smoke_rows):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import bench
    finally:
        sys.path.remove(str(BENCHMARKS))
    assert smoke_rows.keys() == {script.name for script in bench.SCRIPTS if script.smoke}
