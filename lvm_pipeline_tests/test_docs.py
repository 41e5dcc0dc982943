"""What the README names exists, and its picture is drawn from the definitions as they are."""

import re
from pathlib import Path

import pytest
import typer

from lvm_pipeline.architectures._registry import ARCHITECTURES
from lvm_pipeline.cli.commands import app
from lvm_pipeline.evaluation.glossary import COLUMNS
from lvm_pipeline.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert named >= {"demo", "test", "ui", "setup", "ci"}
    assert named <= targets


def test_every_command_of_the_readme_exists_with_its_options():
    commands = typer.main.get_command(app).commands

    named = re.findall(r"(?:`|^)lvm ([a-z0-9-]+)([^`\n#]*)", README, re.MULTILINE)
    assert {name for name, _ in named} >= {"ingest", "verify", "run", "train", "evaluate", "down"}
    for name, rest in named:
        assert name in commands, name
        command = commands[name]
        if isinstance(command, typer.core.TyperGroup):
            command = command.commands[rest.split()[0]]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, name


def test_every_variable_of_the_readme_is_a_setting():
    named = {name.removeprefix("LVM_").lower() for name in re.findall(r"LVM_[A-Z_]+[A-Z]", README)}

    assert named >= {"home", "database_url"}
    assert named <= set(Settings.model_fields)


def test_every_path_of_the_readme_exists():
    named = re.findall(r"`((?:lvm_pipeline|benchmarks|docs)/[\w./]+)`|\]\(([\w./]+)\)", README)

    assert named
    assert [path for pair in named for path in pair if path and not (ROOT / path).exists()] == []


def test_the_readme_lists_every_architecture_with_its_size():
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d,.]+) M \|$", README, re.MULTILINE))

    assert listed == {name: f"{found.presets['full'].num_params / 1e6:,.1f}" for name, found in ARCHITECTURES.items()}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_readme_says_what_each_report_column_means(column):
    assert f"| {column} | {COLUMNS[column]} |" in README


def test_the_picture_shows_the_lineage_as_it_is(tmp_path):
    from lvm_pipeline.definitions import defs
    from lvm_pipeline.defs.picture import draw, lineage_of

    drawn = tmp_path / "lineage.svg"
    draw(lineage_of(defs()), drawn)

    assert words(drawn) == words(ROOT / "docs" / "lineage.svg")


def words(path):
    return re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text(encoding="utf-8"))
