"""A trial that several processes train together ends as in one process, also when one of them is killed."""

import json
import os
import signal
import time

import numpy as np
import psutil
import pytest
import torch

from lvm_pipeline import files, lineage
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage import launching, rank
from lvm_pipeline.settings import Settings, settings_environment
from lvm_pipeline.training.batches import gather
from lvm_pipeline.training.objectives import objective_named
from lvm_pipeline.training.ranks import Ranks
from lvm_pipeline.training.spans import Spans
from lvm_pipeline.training.trained_model import load_trained_model
from lvm_pipeline_tests.synthetic import write_synthetic_concepts, write_synthetic_sequences

OPTIONS = {
    "architecture": "gru",
    "preset": "smoke",
    "model": {"dropout": 0.0},
    "precision": "float32",
    "device": "cpu",
    "num_threads": 1,
    "num_processes": 2,
    "batch_size": 60,
    "epochs": 2,
}


def settings_in(folder, **options):
    settings = Settings(home=folder, **{**OPTIONS, **options})
    write_synthetic_concepts(settings.concepts_path, article_lengths=[12, 7, 20, 9] * 10, kind="rotation")
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    return settings


def trained_by(launcher, folder, monkeypatch, *, progress=None, **options):
    settings = settings_in(folder, launcher=launcher, **options)
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    config = lineage.training_config_of(settings)
    return lineage.train_launched(settings, config, progress=progress)


def assert_same(one, other, *, tolerance=1e-3):
    """Equal but for the order in which floats are added, which Adam magnifies where a gradient is nearly zero."""
    before, after = one.info.history[0], other.info.history[0]
    assert after["validation_cosine"] == pytest.approx(before["validation_cosine"], abs=1e-6)  # nothing trained yet
    assert other.info.score == pytest.approx(one.info.score, abs=tolerance)
    assert [row["step"] for row in one.info.history] == [row["step"] for row in other.info.history]
    for before, after in zip(one.info.history[1:], other.info.history[1:], strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"], abs=tolerance)
        assert after["validation_cosine"] == pytest.approx(before["validation_cosine"], abs=tolerance)


def test_ranks_share_every_batch_without_gap_or_overlap():
    spans = Spans(first_rows=np.arange(5) * 10, lengths=np.array([3, 9, 4, 4, 2]), first_targets=np.zeros(5, np.int64))
    for size in (1, 2, 3, 7):
        parts = [Ranks(rank=rank, size=size).part_of(spans, spans.num_targets) for rank in range(size)]
        rows = np.concatenate([part.target_rows() for part, weight in parts if weight > 0])
        assert sorted(rows) == sorted(spans.target_rows())
        assert sum(weight for _, weight in parts) == pytest.approx(size)
        for part, weight in parts:
            assert weight in (0, pytest.approx(size * part.num_targets.sum() / spans.num_targets.sum()))


@pytest.mark.parametrize("objective", ["cosine", "cosine + 0.5 mse"])
def test_the_gradients_of_ranks_make_up_that_of_the_whole_batch(objective):
    vectors = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.manual_seed(0)), dim=-1)
    spans = Spans(first_rows=np.arange(5) * 10, lengths=np.array([3, 9, 4, 4, 2]), first_targets=np.zeros(5, np.int64))

    def gradient(part):
        weights = torch.eye(8).requires_grad_()
        batch = gather(vectors, part)
        objective_named(objective)(batch.contexts[batch.is_target] @ weights, batch).backward()
        return weights.grad

    shares = [Ranks(rank=rank, size=3).part_of(spans, spans.num_targets) for rank in range(3)]
    made = sum(weight / 3 * gradient(part) for part, weight in shares)
    torch.testing.assert_close(made, gradient(spans), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["articles", "windows"])
def test_two_processes_train_what_one_does(tmp_path, monkeypatch, mode):
    alone = trained_by("inprocess", tmp_path / "alone", monkeypatch, mode=mode)
    reports = []
    together = trained_by("torchrun", tmp_path / "together", monkeypatch, mode=mode, progress=reports.append)
    assert together.was_trained
    assert reports
    assert_same(alone, together)


SHARDED = {"architecture": "lcm", "ema_decay": 0.9, "checkpoint_seconds": 0.0}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_processes_that_split_the_weights_train_what_two_with_copies_do(tmp_path, monkeypatch):
    copies, split = (
        trained_by("torchrun", tmp_path / name, monkeypatch, shard_weights=name == "split", **SHARDED)
        for name in ("copies", "split")
    )
    assert_same(copies, split)
    assert split.info.model_class == copies.info.model_class
    model, _ = load_trained_model(split.folder.model_dir)  # in this process alone
    assert sum(each.numel() for each in model.parameters()) == copies.info.num_params


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_one_process_resumes_what_two_with_split_weights_began(tmp_path, monkeypatch):
    alone = trained_by("inprocess", tmp_path / "alone", monkeypatch, **SHARDED, epochs=6, patience=6)

    def interrupt(report):
        if report.epoch > 2:
            raise KeyboardInterrupt

    options = {**SHARDED, "epochs": 6, "patience": 6}
    with pytest.raises(KeyboardInterrupt):
        trained_by("torchrun", tmp_path / "split", monkeypatch, progress=interrupt, shard_weights=True, **options)
    assert list((tmp_path / "split" / "trials").glob("*/checkpoint/checkpoint.safetensors"))

    epochs = []
    resumed = trained_by(
        "inprocess", tmp_path / "split", monkeypatch, progress=lambda report: epochs.append(report.epoch), **options
    )
    assert min(epochs) > 1
    assert_same(alone, resumed, tolerance=1e-2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_process_is_started_again_and_resumes(tmp_path, monkeypatch):
    alone = trained_by("inprocess", tmp_path / "alone", monkeypatch, checkpoint_seconds=0.0, epochs=20, patience=20)
    killed, reports = [], []

    def kill_one(report):
        reports.append(report)
        if not killed and report.epoch > 2:
            (torchrun,) = [each for each in psutil.Process().children() if "torch.distributed.run" in each.cmdline()]
            ranks = [each for each in torchrun.children() if launching.RANK_MODULE in each.cmdline()]
            assert len(ranks) == 2
            killed.append(ranks[1].pid)
            os.kill(ranks[1].pid, signal.SIGKILL)

    options = {"checkpoint_seconds": 0.0, "epochs": 20, "patience": 20}
    together = trained_by("torchrun", tmp_path / "together", monkeypatch, progress=kill_one, **options)
    assert killed
    assert_same(alone, together, tolerance=1e-2)  # after 20 epochs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_error_of_the_first_process_is_raised_with_its_sentence(tmp_path, monkeypatch):
    started = time.monotonic()
    with pytest.raises(LvmError, match=r"no_such_field"):
        trained_by("torchrun", tmp_path, monkeypatch, model={"no_such_field": 3})
    assert time.monotonic() - started < 600


def test_an_error_before_the_processes_have_joined_is_recorded_by_the_first(tmp_path, monkeypatch):
    settings = settings_in(tmp_path, device="cuda:99")
    monkeypatch.setenv("LVM_HOME", str(tmp_path))
    request = {"config": lineage.training_config_of(settings).as_json(), "again": False, "tracks": False}
    exchange = launching.Exchange(tmp_path)
    files.write_json(exchange.request, request)

    monkeypatch.setenv("RANK", "1")
    rank.main(exchange)
    assert not exchange.record.exists()
    monkeypatch.setenv("RANK", "0")
    rank.main(exchange)

    assert "The device cuda:99 is not here" in json.loads(exchange.record.read_text())["error"]


def test_the_address_of_ray_jobs_is_refused_where_ray_would_not_hear_of_it(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(LvmError, match=r"LVM_RAY_ADDRESS .* set RAY_ADDRESS"):
        trained_by("ray", tmp_path, monkeypatch, ray_address="http://127.0.0.1:8265")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_where_nothing_listens_is_named_at_once(tmp_path, monkeypatch, scheme):
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{free_port()}")
    with pytest.raises(LvmError, match=r"127.0.0.1:\d+ cannot be reached .*or change RAY_ADDRESS"):
        trained_by("ray", tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ray_workers_train_what_one_process_does(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    alone = trained_by("inprocess", tmp_path / "alone", monkeypatch)
    together = trained_by("ray", tmp_path / "together", monkeypatch)
    assert together.was_trained
    assert_same(alone, together)
