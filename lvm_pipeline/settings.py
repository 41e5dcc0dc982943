"""Environment to one typed, frozen settings object; the environment is read nowhere else.

Every field is an environment variable with the prefix `LVM_`: `home` is `LVM_HOME`.
"""

import difflib
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lvm_pipeline.errors import LvmError

CHECKOUT_DIR = Path(__file__).resolve().parent.parent
CRON = r"^\s*(\S+\s+){4}\S+\s*$"  # minute, hour, day, month, weekday; Dagster reads the fields
COMPOSE_VARIABLES = ("LVM_POSTGRES_PASSWORD", "LVM_POSTGRES_PORT")  # read by docker-compose.yml alone


class Settings(BaseSettings):
    """Everything a person can set from outside, with its default."""

    model_config = SettingsConfigDict(env_prefix="LVM_", frozen=True, extra="forbid", env_ignore_empty=True)

    home: Path = Field(default_factory=lambda: default_home(), description="Folder that holds all state.")
    database_url: SecretStr | None = Field(
        default=None, description="URL of an own Postgres that holds the source tables; default: the embedded server."
    )

    # The source table.
    entry_table: str = Field(default="cpe_entry", description="Table of concepts.")
    vector_table: str = Field(default="cpe_vectors", description="Table of vectors, joined on cpe_id.")
    vector_column: str = Field(
        default="concept_vec", description="Vector column, looked for in vector_table first, then in entry_table."
    )
    dataset_source: str | None = Field(
        default=None,
        description="Value of dataset_source to extract; default: user_input where it has rows, else the only one.",
    )
    space_id: str | None = Field(default=None, description="Space id of vectors whose table does not name one.")
    article_column: str | None = Field(
        default=None, description="Column that names the article, overriding the order rule."
    )
    position_column: str | None = Field(
        default=None, description="Column that orders an article, overriding the order rule."
    )
    accept_table_order: bool = Field(
        default=False, description="Accept the order in which the table returns rows; shown as a warning everywhere."
    )
    duplicates: Literal["fail", "drop"] = Field(
        default="fail", description="Concepts that repeat a text or vector: fail, or drop all but the first."
    )

    # Sequences.
    context_length: int = Field(default=5, ge=1, description="Context concepts of a sequence.")
    split_seed: int = Field(default=0, description="Seed of the hash that assigns articles to splits.")
    train_fraction: float = Field(default=0.8, gt=0, lt=1, description="Share of articles in the train split.")
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Share of articles in the validation split."
    )
    validation_articles: Path | None = Field(
        default=None, description="File of article ids, one a line, that are validation; all others are train."
    )
    boundaries: Literal["respect", "ignore"] = Field(
        default="respect", description="`ignore` lets windows cross articles (compatibility mode, leaking)."
    )
    split: Literal["articles", "last_20_percent"] = Field(
        default="articles", description="`last_20_percent` splits by position (compatibility mode, leaking)."
    )

    # Training. Where nothing is set, `training.config.TrainingConfig` owns the default.
    preset: str = Field(default="small", description="Preset that assets and `lvm run` train.")
    training_mode: Literal["auto", "articles", "windows"] = Field(
        default="auto", description="How training sees the data: whole articles where it can, or windows."
    )
    epochs: int | None = Field(default=None, ge=1, description="Passes over the train split, at most.")
    batch_size: int | None = Field(default=None, ge=1, description="Targets in one optimiser step, about.")
    learning_rate: float | None = Field(default=None, gt=0, description="Peak learning rate.")
    objective: str | None = Field(
        default=None, description="What training minimises: a sum of cosine, mse, infonce, such as `cosine + 0.1 mse`."
    )
    seed: int = Field(default=0, description="Seed of weights, order and dropout.")
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    num_threads: int = Field(default=2, ge=1, description="PyTorch threads on a CPU.")
    compile: bool = Field(
        default=False,
        description="Train with torch.compile where it pays, on windows: a slow first minute, for long trainings.",
    )

    # Automation; read when Dagster loads the definitions, but for the architectures.
    observation_cron: str = Field(
        default="*/30 * * * *",
        pattern=CRON,
        description="When the source table is looked at; what changed is refreshed.",
    )
    retraining_cron: str = Field(default="0 3 * * 0", pattern=CRON, description="When models are trained again.")
    retrained_architectures: str = Field(
        default="champion",
        description="What is trained again: `champion` for its architecture only, `all`, or names with commas.",
    )
    retrain_on: Literal["schedule", "new_data", "drift"] = Field(
        default="schedule",
        description="Train between the scheduled times too: when new data passed its checks, or when they drifted.",
    )
    automation_interval_seconds: int = Field(
        default=30, ge=1, description="How often Dagster looks for something to refresh, to train or to alert about."
    )

    # Alerts.
    alert_url: SecretStr | None = Field(
        default=None, description="Where alerts go, as an apprise URL: slack://, mailtos://, jsons://, file://, ..."
    )
    daemon_silence_seconds: int = Field(
        default=300, ge=1, description="After how long without a heartbeat of Dagster's daemon an alert is sent."
    )
    dagster_url: str | None = Field(
        default=None, description="Address of the Dagster web UI in alerts; default: `dagster_port` on this machine."
    )

    # Services.
    dagster_database_url: SecretStr | None = Field(
        default=None, description="URL of an own Postgres for Dagster's storage; default: the embedded server."
    )
    dagster_port: int = Field(default=3000, description="Port of the Dagster web UI on loopback.")
    mlflow_port: int = Field(default=5000, description="Port of the MLflow UI on loopback.")
    mlflow_tracking_uri: str | None = Field(
        default=None, description="Tracking server to use instead of the own store."
    )
    mlflow_ui_url: str | None = Field(
        default=None, description="Address of the MLflow UI in links, where a browser reaches it under another."
    )

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    # Where products lie.
    @property
    def ui_address(self) -> str:
        """Address of the Dagster web UI, for people."""
        return (self.dagster_url or f"http://127.0.0.1:{self.dagster_port}").rstrip("/")

    @property
    def data_dir(self) -> Path:
        """Promoted data products."""
        return self.home / "data"

    @property
    def staging_dir(self) -> Path:
        """Products whose checks have not passed yet; on the same disk as `data_dir`."""
        return self.home / "data" / "staging"

    @property
    def concepts_path(self) -> Path:
        """Promoted concept table."""
        return self.data_dir / "concepts.parquet"

    @property
    def champion_concepts_path(self) -> Path:
        """Concept table that the champion was trained on, kept when `concepts_path` is replaced."""
        return self.data_dir / "champion_concepts.parquet"

    @property
    def sequences_path(self) -> Path:
        """Promoted sequence table."""
        return self.data_dir / "sequences.parquet"

    @property
    def vectors_dir(self) -> Path:
        """Memory-mapped (N, D) arrays, one for each fingerprint."""
        return self.data_dir / "vectors"

    @property
    def models_dir(self) -> Path:
        """Trained models, one folder for each architecture."""
        return self.home / "models"

    @property
    def reports_dir(self) -> Path:
        """Verification report, reports for each architecture, leaderboard."""
        return self.home / "reports"

    @property
    def encoders_dir(self) -> Path:
        """Fitted encoders, one folder for each space id."""
        return self.home / "encoders"

    @property
    def postgres_dir(self) -> Path:
        """Files of the embedded Postgres."""
        return self.home / "postgres"

    @property
    def dagster_dir(self) -> Path:
        """DAGSTER_HOME."""
        return self.home / "dagster"

    @property
    def mlflow_dir(self) -> Path:
        """MLflow artefacts."""
        return self.home / "mlflow"


def default_home() -> Path:
    """Return `.lvm` in a checkout, `~/.lvm` where the package is installed."""
    is_checkout = (CHECKOUT_DIR / "pyproject.toml").is_file() and (CHECKOUT_DIR / "workspace.yaml").is_file()
    return CHECKOUT_DIR / ".lvm" if is_checkout else Path.home() / ".lvm"


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; `overrides` win over it.

    Raises:
        LvmError: If a variable cannot be understood; names it and what was wrong.
    """
    try:
        return Settings(**overrides)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        problems = "; ".join(
            f"LVM_{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors()
        )
        raise LvmError(f"The settings cannot be used ({problems}). Correct the variable and try again.") from None


def unknown_variables() -> dict[str, str | None]:
    """Return the variables `LVM_...` of the environment that mean nothing, each with the nearest one that does."""
    known = [f"LVM_{name.upper()}" for name in Settings.model_fields]
    given = [name for name in os.environ if name.upper().startswith("LVM_")]
    unknown = [name for name in given if name.upper() not in {*known, *COMPOSE_VARIABLES}]
    return {name: next(iter(difflib.get_close_matches(name.upper(), known, n=1)), None) for name in sorted(unknown)}
