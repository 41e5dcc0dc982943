"""What the command line prints."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from lvm_pipeline import tables
from lvm_pipeline.cli import render
from lvm_pipeline.doctor import Diagnosis, State
from lvm_pipeline.lineage.data import Verification

ROWS = [
    {
        "trial_id": "lstm-small-s0-3f9ac21e",
        "reads": "article",
        "cosine": "0.6107",
        "gain": "+0.01 [+0.0, +0.02]",
    },
    {"trial_id": "recency_weighted_mean", "reads": "5 concepts", "cosine": "0.6051", "gain": "-"},
]


def printed(rows, *, width, texts=("trial_id", "gain")):
    console = Console(file=io.StringIO(), width=width)
    columns = [tables.Column(title=key, text=lambda row, key=key: row[key], is_text=key in texts) for key in rows[0]]
    render.show_table(console, tables.Table(columns=columns, rows=rows))
    return console.file.getvalue()


def test_names_are_folded_at_hyphens_and_underscores():
    lines = printed(ROWS, width=50).splitlines()

    names = [line.split()[0] for line in lines[1:]]
    assert "".join(names).startswith(ROWS[0]["trial_id"])
    pieces = [piece for row in ROWS for piece in row["trial_id"].replace("_", "-").split("-")]
    found = [piece for line in lines for piece in line.replace("_", " ").replace("-", " ").split()]
    assert all(piece in found for piece in pieces)
    assert max(map(len, lines)) <= 50


@pytest.mark.parametrize("width", [20, 50, 80, 200])
def test_nothing_of_a_name_is_lost(width):
    text = printed([{"trial_id": row["trial_id"]} for row in ROWS], width=width)
    assert "".join(text.split()) == "trial_id" + "".join(row["trial_id"] for row in ROWS)


def test_a_single_long_word_is_folded_where_it_must():
    assert printed([{"trial_id": "x" * 30}], width=12).split()[1:] == ["x" * 10, "x" * 10, "x" * 10]


def test_headings_are_words():
    console = Console(file=io.StringIO(), width=80)
    render.show_rows(console, [{"trial_id": "a", "present_data": True}])
    assert console.file.getvalue().splitlines()[0].split("  ")[0] == "trial id"


def test_a_long_sentence_wraps_and_leaves_the_names_whole():
    console = Console(file=io.StringIO(), width=40)
    summary = "Growing subsets of whole articles, then the whole train split"
    render.show_rows(console, [{"name": "progressive", "summary": summary}])
    lines = console.file.getvalue().splitlines()
    assert lines[1].startswith("progressive")
    assert " ".join(" ".join(lines[1:]).split()[1:]) == summary


def test_brackets_in_paths_and_names_are_printed_as_they_are():
    console = Console(file=io.StringIO(), width=80)
    path = Path("/home/[me]/concepts [/v2]/verification.md")
    table = {"num_concepts": 9, "num_articles": 1, "num_source_rows": 9, "dataset_source": "wiki[en]", "space_id": "s"}
    paths = (path.with_suffix(".json"), path)
    render.show_verification(console, Verification(findings=[], report={"concepts": table}, report_paths=paths))
    assert "rows (wiki[en]), space s" in console.file.getvalue()
    assert f"Report: {path}" in console.file.getvalue()


def test_one_problem_is_not_counted_in_the_plural():
    console = Console(file=io.StringIO(), width=120)

    render.show_diagnoses(console, [diagnosis("problem"), diagnosis("ok"), diagnosis("ok")])

    assert console.file.getvalue().endswith("1 problem, 0 warnings, 2 checks passed.\n")


def diagnosis(state):
    return Diagnosis(state=State(state), area="storage", subject="disk", found="found", fix="")


def test_truth_values_are_yes_and_no():
    found = tables.table_of([{"name": "a", "is_current": True}, {"name": "b", "is_current": False}]).markdown()

    assert "| a | yes |" in found
    assert "| b | no |" in found


@pytest.mark.parametrize(("space_id", "is_warned"), [("gtr-t5-base", False), ("undeclared-768", True)])
def test_a_model_of_an_undeclared_space_says_what_it_cannot_be_used_for(space_id, is_warned):
    info = SimpleNamespace(
        **{"trial_id": "gru-smoke-s0", "num_params": 1000, "mode": "windows", "selection_metric": "cosine"},
        **{"score": 0.5, "start_score": 0.4, "best_epoch": 1, "training_seconds": 2.0, "trained_on": "CPU"},
        space_id=space_id,
    )
    console = Console(file=io.StringIO(), width=200)
    render.show_trained(console, info, path=Path("model"))

    assert ("set LVM_SPACE_ID and train again" in console.file.getvalue()) == is_warned


def test_without_a_terminal_progress_is_a_line_now_and_then_and_at_the_end(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 61.0, 61.0, 70.0, 80.0])
    monkeypatch.setattr(render, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with render.progress_bars(render.plain()) as bars:
        show = bars.task("Training [gru]")
        for done in (1, 2, 3, 4, 4):
            show(done, 4, f"epoch {done}")
    assert capsys.readouterr().out.splitlines() == [
        "Training [gru]: 50% (epoch 2)",
        "Training [gru]: done (epoch 4)",
    ]
