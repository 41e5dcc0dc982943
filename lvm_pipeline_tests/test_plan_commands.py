"""`lvm plan list`, `run` and `report` as a person calls them."""

import json

import pytest

from lvm_pipeline import lineage
from lvm_pipeline.experiments import plan
from lvm_pipeline.experiments.plan import Share
from lvm_pipeline.settings import load_settings
from lvm_pipeline_tests.lineage.small_trials import make_data
from lvm_pipeline_tests.rescored_here import rescored_here

COLUMNS = {"trial_id", "week", "architecture", "preset", "strategy", "overrides", "seed", "status"}


@pytest.fixture
def home(monkeypatch):
    """A home with a little data, and a plan of two trials, without MLflow."""
    rescored_here(monkeypatch)
    monkeypatch.setattr(lineage, "plan_tracker", lambda settings, week: None)
    shares = (Share(architecture="gru", week=1, count=1), Share(architecture="lstm", week=2, count=1))
    monkeypatch.setattr(plan, "SHARES", shares)
    for name, value in {"PRESET": "smoke", "EPOCHS": "1", "NUM_THREADS": "1", "DEVICE": "cpu"}.items():
        monkeypatch.setenv(f"LVM_{name}", value)
    make_data(load_settings())
    return load_settings().home


def test_the_whole_plan_is_listed_as_data(lvm):
    code, out, _ = lvm("plan", "list", "--preset", "smoke", "--json")
    rows = json.loads(out)

    assert code == 0
    assert all(row.keys() >= COLUMNS for row in rows)
    assert [sum(row["week"] == week for row in rows) for week in (1, 2, 3, 4, 5)] == [15, 30, 20, 25, 15]
    assert sum(row["is_addition"] for row in rows) == 5
    assert {row["preset"] for row in rows} == {"smoke"}
    _, out, _ = lvm("plan", "list", "--week", "3")
    assert out.count("distilgpt2-small") == 10


def test_a_week_is_run_and_reported(lvm, home):
    code, out, _ = lvm("plan", "run", "--week", "1")

    assert code == 0, out
    assert "1/1 gru-smoke-s0-" in out
    assert "1 done, 0 stopped, 0 failed, 0 refused, 0 left; 1 of them run now." in out
    assert "Best config of each architecture" in out
    assert {path.name for path in (home / "reports").iterdir()} >= {"study.html", "study.json", "experiments.csv"}
    _, out, _ = lvm("plan", "run", "--week", "1")
    assert "done before" in out
    _, out, _ = lvm("plan", "report", "--json")
    assert [row["status"] for row in json.loads(out)["rows"]][:2] == ["done", "planned"]
    code, out, _ = lvm("plan", "run", "--budget-seconds", "0")
    assert "1 done, 0 stopped, 0 failed, 0 refused, 1 left; 0 of them run now." in out


def test_what_cannot_be_run_is_one_sentence(lvm, home):
    code, _, error = lvm("plan", "run", "--week", "8")
    assert (code, error.count("Error:")) == (1, 1)
    assert "The plan has no week 8; its weeks are 1 (baselines)" in " ".join(error.split())
    code, _, error = lvm("plan", "run", "--week", "5")
    assert "2 of their trials have not been run" in " ".join(error.split())
    code, _, error = lvm("plan", "list", "--preset", "huge")
    assert "has no preset 'huge'" in " ".join(error.split())
