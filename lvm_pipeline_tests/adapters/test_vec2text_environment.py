"""The environment of vec2text can be completed after an interruption."""

import subprocess
import sys

import pytest

from lvm_pipeline.adapters import vec2text_environment
from lvm_pipeline.decoding.vec2text import environment_python


@pytest.mark.slow
def test_an_environment_whose_creation_was_interrupted_is_created_again(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "vec2text.py").write_text("")
    monkeypatch.setattr(vec2text_environment, "REQUIREMENTS", ("-r", str(tmp_path / "requirements.txt")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "vec2text"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    assert environment_python(folder).is_file()

    assert vec2text_environment.install_environment(folder) == environment_python(folder)
