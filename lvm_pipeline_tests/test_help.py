"""What `--help` says: every command, argument and option is explained."""

import re

import typer

from lvm_pipeline.cli.commands import app


def help_pages(command, names=()):
    """Yield each command below `command`: its words after `lvm`, the command itself and its help page on one line."""
    context = typer.Context(command, info_name=" ".join(("lvm", *names)))
    yield names, command, " ".join(command.get_help(context).split())
    for name, below in getattr(command, "commands", {}).items():
        yield from help_pages(below, (*names, name))


PAGES = list(help_pages(typer.main.get_command(app)))


def test_every_argument_and_option_is_explained():
    unexplained = [
        (*names, parameter.name)
        for names, command, _ in PAGES
        for parameter in command.params
        if not is_explained(parameter, command)
    ]

    assert unexplained == []


def is_explained(parameter, command):
    """Whether an option has a help text, and an argument a sentence in that of its command.

    Typer takes a help text for an argument and does not show it with click 8.5.
    """
    if isinstance(parameter, typer.core.TyperOption):
        return bool(parameter.help)
    name = (parameter.metavar or parameter.name.upper()).strip("[].")
    return re.search(rf"\b{name}\b", command.help) is not None


def test_the_page_of_a_command_with_a_file_says_what_the_file_holds():
    pages = {names: page for names, _, page in PAGES}

    assert (
        "FILE holds articles, as JSON lines, Parquet or Arrow, or concepts, as Parquet or Arrow" in pages[("ingest",)]
    )
    assert "ARTICLE is a text file whose paragraphs are separated by empty lines" in pages[("try",)]
