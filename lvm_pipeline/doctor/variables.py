"""Examine the variables LVM_...: valid, known, and without contradictions."""

from collections.abc import Iterator

from lvm_pipeline import lineage
from lvm_pipeline.adapters.service_ports import shared_ports
from lvm_pipeline.doctor.diagnosis import Diagnosis, Subject
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings, load_settings, variable_of
from lvm_pipeline.unknown_variables import unknown_variables

VALUES = Subject("settings", "values")
NAMES = Subject("settings", "names")
AGREEMENT = Subject("settings", "agreement")


def read_settings() -> tuple[Settings | None, Diagnosis]:
    """Read the settings; None if they are invalid."""
    try:
        settings = load_settings()
    except LvmError as error:
        sentence, separator, fix = str(error).partition("). ")
        return None, VALUES.problem(f"{sentence})" if separator else sentence, fix or "Correct the variable.")
    given = [variable_of((name,)) for name in Settings.model_fields if name in settings.model_fields_set]
    return settings, VALUES.ok(f"valid; set: {', '.join(given) or 'none (all defaults)'}")


def examine_names() -> Iterator[Diagnosis]:
    """Look for variables that are not settings, most often misspelt ones."""
    unknown = unknown_variables()
    for name, nearest in unknown.items():
        fix = f"Rename it to {nearest}, or unset it." if nearest else "Unset it; `lvm settings` lists all settings."
        yield NAMES.problem(f"{name} is not a setting and has no effect", fix)
    if not unknown:
        yield NAMES.ok("every variable LVM_... is a setting")


def examine_agreement(settings: Settings) -> Iterator[Diagnosis]:
    """Look for contradicting values."""
    problems = [
        *_split_problems(settings),
        *_order_problems(settings),
        *_services_problems(settings),
        *_name_problems(settings),
    ]
    yield from problems
    if settings.boundaries == "ignore" or settings.split == "last_20_percent":
        yield AGREEMENT.warning(
            "the compatibility mode is on: train and validation share articles, and every report says LEAKING",
            "Unset LVM_BOUNDARIES and LVM_SPLIT for valid scores.",
        )
    elif not problems:
        yield AGREEMENT.ok("no contradictions")


def _split_problems(settings: Settings) -> Iterator[Diagnosis]:
    if settings.train_fraction + settings.validation_fraction > 1:
        yield AGREEMENT.problem(
            f"LVM_TRAIN_FRACTION {settings.train_fraction} and LVM_VALIDATION_FRACTION {settings.validation_fraction} "
            "come to more than 1",
            "Lower one of them; what is left is the test split.",
        )
    if settings.validation_articles is None:
        return
    if not settings.validation_articles.is_file():
        yield AGREEMENT.problem(
            f"LVM_VALIDATION_ARTICLES is {settings.validation_articles}, which does not exist",
            "Correct the path, or unset it to split by the seeded hash.",
        )
    if settings.split == "last_20_percent":
        yield AGREEMENT.problem(
            "LVM_SPLIT=last_20_percent and LVM_VALIDATION_ARTICLES both choose the validation split",
            "Unset one of them.",
        )


def _order_problems(settings: Settings) -> Iterator[Diagnosis]:
    if settings.position_column and not settings.article_column:
        yield AGREEMENT.problem(
            "LVM_POSITION_COLUMN is set without LVM_ARTICLE_COLUMN", "Set the column of the article too."
        )
    if settings.article_column and not (settings.position_column or settings.accept_table_order):
        yield AGREEMENT.problem(
            "LVM_ARTICLE_COLUMN is set without LVM_POSITION_COLUMN", "Set the column that orders an article too."
        )


def _services_problems(settings: Settings) -> Iterator[Diagnosis]:
    for conflict in shared_ports(settings):
        yield AGREEMENT.problem(conflict, "Give each another port.")
    if settings.mlflow_ui_url and settings.mlflow_tracking_uri is None:
        yield AGREEMENT.warning(
            "LVM_MLFLOW_UI_URL is set although MLflow uses the built-in store",
            "Unset it, unless a proxy serves the UI there.",
        )


def _name_problems(settings: Settings) -> Iterator[Diagnosis]:
    try:
        lineage.refuse_unknown_names(settings)
    except LvmError as error:
        yield AGREEMENT.problem(str(error).rstrip("."), "Correct the variable.")
