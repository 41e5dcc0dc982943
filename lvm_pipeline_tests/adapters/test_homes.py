"""Homes of any name, moved and copied: the MLflow store keeps no path of its home."""

import shutil

import pytest
from sqlalchemy import create_engine, text

from lvm_pipeline.adapters import embedded_postgres, mlflow_artifacts, mlflow_registry, mlflow_store
from lvm_pipeline.adapters.mlflow_tracker import MlflowTracker
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.adapters.test_mlflow import FINGERPRINTS, write_model

pytestmark = pytest.mark.postgres

NAME = "向量模型的家在一个很长的文件夹里" + "x" * 140


def promoted(settings, model_dir):
    """Log a model to a run and make it the champion, as a training and a choice do."""
    tracker = MlflowTracker(settings, experiment="plan week 1", system_metrics=False)
    tracker.start("gru smoke", params={}, tags={}, fingerprints=FINGERPRINTS)
    tracker.log_model(model_dir)
    tracker.finish("FINISHED")
    return mlflow_registry.promote(settings, mlflow_run_id=tracker.run_id, tags={"trial_id": "gru"}, description="best")


def addresses(settings):
    engine = create_engine(mlflow_store.tracking_uri(settings))
    try:
        with engine.connect() as connection:
            return {
                row[0]
                for table, _, column in mlflow_artifacts.COLUMNS
                for row in connection.execute(text(f"SELECT {column} FROM {table}"))
                if row[0] is not None and "mlruns" not in row[0]
            }
    finally:
        engine.dispose()


def test_a_home_with_a_long_name_is_used_copied_and_moved(open_tmp_path):
    home = open_tmp_path / NAME
    settings = Settings(home=home)
    try:
        champion = promoted(settings, write_model(open_tmp_path / "model"))
        assert champion.model_dir.is_relative_to(home)
        assert (champion.model_dir / "model.safetensors").read_bytes() == b"weights"
        assert all(each.startswith("mlflow-artifacts:/plan-week-1") for each in addresses(settings))
    finally:
        embedded_postgres.stop(settings.postgres_dir)
    a_copy_and_an_earlier_home_open(home, open_tmp_path)


def a_copy_and_an_earlier_home_open(home, folder):
    shutil.copytree(home, folder / "copy", symlinks=True)
    home.rename(folder / "moved")
    for place in ("copy", "moved"):
        settings = Settings(home=folder / place)
        try:
            found = mlflow_registry.champion(settings)
            assert found.model_dir.is_relative_to(folder / place)
            assert found.model_dir.is_dir()
            make_addresses_absolute(settings)
            assert found.model_dir == mlflow_registry.champion(settings).model_dir
        finally:
            embedded_postgres.stop(settings.postgres_dir)


def make_addresses_absolute(settings):
    """Write what earlier versions wrote, with the path of a home that is gone, and open the store anew."""
    engine = create_engine(mlflow_store.tracking_uri(settings))
    with engine.begin() as connection:
        for table, _, column in mlflow_artifacts.COLUMNS:
            connection.execute(
                text(
                    f"UPDATE {table} SET {column} = replace({column}, 'mlflow-artifacts:', 'file:///gone/mlflow/artifacts')"
                )
            )
    assert any(each.startswith("file:") for each in addresses(settings))
    mlflow_store._client.cache_clear()
    mlflow_store.open_client(settings)
    assert not any(each.startswith("file:") for each in addresses(settings))
    engine.dispose()
