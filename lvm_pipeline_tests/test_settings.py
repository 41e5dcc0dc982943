"""Promises of the settings: one reading of the environment, clear refusals, no secret shown."""

from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic import SecretStr, ValidationError

from lvm_pipeline import settings
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, load_settings
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.unknown_variables import unknown_variables


def other_than_default(field, folder):
    """A value that a field can take and that is not its default; its text can be a cron schedule."""
    kinds = get_args(field.annotation) or (field.annotation,)
    if get_origin(field.annotation) is Literal:
        return kinds[-1]
    values = {
        bool: lambda: not field.default,
        int: lambda: field.default + 1,
        float: lambda: field.default / 2 + 0.125,
        Path: lambda: folder / "other",
        str: lambda: "1 2 3 4 5",
        SecretStr: lambda: SecretStr("1 2 3 4 5"),
    }
    return values[kinds[0]]()


def test_every_field_is_a_variable(monkeypatch, tmp_path):
    own = {name: field for name, field in Settings.model_fields.items() if name not in TrainingConfig.model_fields}
    given = {name: other_than_default(field, tmp_path) for name, field in own.items()}
    for name, value in given.items():
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        monkeypatch.setenv(f"LVM_{name.upper()}", text)

    read = load_settings()

    assert {name: getattr(read, name) for name in own} == given
    assert [name for name, field in own.items() if given[name] == field.default] == []


def test_an_argument_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("LVM_EPOCHS", "3")

    assert load_settings(epochs=5).epochs == 5


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LVM_EPOCHS", "many"),
        ("LVM_EPOCHS", "0"),
        ("LVM_TRAIN_FRACTION", "1.5"),
        ("LVM_DUPLICATES", "keep"),
        ("LVM_CONTEXT_LENGTH", "0"),
        ("LVM_BOUNDARIES", "perhaps"),
        ("LVM_OBSERVATION_CRON", "hourly"),
        ("LVM_RETRAIN_ON", "always"),
        ("LVM_DAGSTER_PORT", "99999"),
        ("LVM_MLFLOW_PORT", "0"),
        ("LVM_REPORTS_PORT", "-1"),
    ],
)
def test_an_invalid_value_is_refused_by_name(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)

    with pytest.raises(LvmError, match=variable) as refusal:
        load_settings()

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ['a"b', "a$b", "a`b", "a\\b"])
def test_a_home_that_a_shell_would_change_is_refused_at_once(monkeypatch, name, tmp_path):
    monkeypatch.setenv("LVM_HOME", str(tmp_path / name))

    with pytest.raises(LvmError, match=r"LVM_HOME.* choose one without quotes") as refusal:
        load_settings()

    assert "\n" not in str(refusal.value)


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("LVM_DATASET_SOURCE", "")

    assert load_settings().dataset_source is None


def test_settings_cannot_be_changed(tmp_path):
    with pytest.raises(ValidationError, match="frozen"):
        Settings(home=tmp_path).epochs = 1


def test_the_password_is_in_no_representation(tmp_path):
    read = Settings(home=tmp_path, database_url="postgresql://me:hush-hush@host/db")

    assert "hush" not in f"{read} {read!r} {read.model_dump()} {read.model_dump_json()}"


def test_all_state_lies_under_the_home(tmp_path):
    read = Settings(home=tmp_path)
    places = [getattr(read, name) for name in vars(Settings) if name.endswith(("_dir", "_path"))]

    assert len(places) >= 10
    assert all(place.is_relative_to(tmp_path) for place in places)


def test_the_home_is_in_a_checkout_or_else_in_the_users_home(monkeypatch, tmp_path):
    monkeypatch.delenv("LVM_HOME")
    assert load_settings().home == settings.CHECKOUT_DIR / ".lvm"

    monkeypatch.setattr(settings, "CHECKOUT_DIR", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert load_settings().home == tmp_path / "me" / ".lvm"


def test_a_relative_home_does_not_follow_a_change_of_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert Settings(home=Path("state")).home == tmp_path / "state"


SECRETS = ("LVM_DATABASE_URL", "LVM_DAGSTER_DATABASE_URL", "LVM_ALERT_URL", "LVM_CHAT_KEY")


def test_every_secret_may_be_in_a_file(monkeypatch, tmp_path):
    for variable in SECRETS:
        (tmp_path / variable).write_text(f"secret of {variable}\r\n", encoding="utf-8-sig")  # as editors of Windows do
        monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / variable))

    read = load_settings()

    for variable in SECRETS:
        assert getattr(read, variable.removeprefix("LVM_").lower()).get_secret_value() == f"secret of {variable}"
    assert set(settings.secret_variables().values()) == set(SECRETS)
    assert unknown_variables() == {}
    for name, value in settings.settings_environment(read).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "LVM_CHAT_KEY").write_text("a newer one")
    assert load_settings() == read


def test_variables_may_be_in_lower_case(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("postgresql://me@host/db")
    monkeypatch.setenv("lvm_database_url_file", str(tmp_path / "url"))
    monkeypatch.setenv("lvm_training_mode", "articles")

    read = load_settings()

    assert read.database_url is not None
    assert read.database_url.get_secret_value() == "postgresql://me@host/db"
    assert read.mode == "articles"
    for name, value in settings.settings_environment(read).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "url").write_text("postgresql://another@host/db")
    assert load_settings() == read


@pytest.mark.parametrize("variable", ["LVM_HOME", "LVM_VALIDATION_ARTICLES", "LVM_DATABASE_URL_FILE"])
def test_the_home_folder_of_nobody_is_refused_by_name(monkeypatch, variable):
    monkeypatch.setenv(variable, "~nobody-has-this-name/x")

    with pytest.raises(LvmError, match=rf"{variable}.*the home folder ~nobody-has-this-name is unknown; write"):
        load_settings()


def test_the_list_of_validation_articles_may_be_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LVM_VALIDATION_ARTICLES", "~/validation.txt")

    assert load_settings().validation_articles == tmp_path / "validation.txt"


@pytest.mark.parametrize("variable", ["LVM_MODEL", "LVM_STRATEGY_OPTIONS", "lvm_model"])
def test_options_that_are_no_json_are_refused_by_name(monkeypatch, variable):
    monkeypatch.setenv(variable, "{bad")

    with pytest.raises(LvmError, match=rf"\({variable.upper()} is not JSON; write such as LVM_MODEL='{{.*}}'\)"):
        load_settings()


def test_a_misspelt_variable_is_unknown_and_one_of_the_volume_manager_is_not(monkeypatch):
    monkeypatch.setenv("LVM_SUPPRESS_FD_WARNINGS", "1")
    monkeypatch.setenv("LVM_EPOCH", "3")

    assert unknown_variables() == {"LVM_EPOCH": "LVM_EPOCHS"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "LVM_CHAT_KEY_FILE is .*, which cannot be read \\(No such file or directory\\)"),
        (b"", "LVM_CHAT_KEY_FILE is .*, which is empty"),
        (b"\xff\xfe", "LVM_CHAT_KEY_FILE is .*, which cannot be read \\(it is not text\\)"),
        (b"other", "LVM_CHAT_KEY and LVM_CHAT_KEY_FILE are both set and differ"),
    ],
)
def test_a_secret_that_cannot_be_read_from_its_file_is_refused(monkeypatch, tmp_path, content, sentence):
    monkeypatch.setenv("LVM_CHAT_KEY_FILE", str(tmp_path / "key"))
    if content == b"other":
        monkeypatch.setenv("LVM_CHAT_KEY", "hush-hush")
    if content is not None:
        (tmp_path / "key").write_bytes(content)

    with pytest.raises(LvmError, match=sentence) as refusal:
        load_settings()

    assert "hush" not in str(refusal.value)


def test_no_check_is_quiet_where_none_is_named(monkeypatch):
    assert "cosine_is_above_production" in load_settings().quiet_checks
    monkeypatch.setenv("LVM_ALERT_QUIET_CHECKS", "none")
    assert load_settings().quiet_checks == frozenset()
    monkeypatch.setenv("LVM_ALERT_QUIET_CHECKS", "a, b")
    assert load_settings().quiet_checks == {"a", "b"}
