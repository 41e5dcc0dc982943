"""Promises of `lvm doctor`: each thing that can be wrong is injected for real, and reported with its fix."""

import json
import os
import pwd
import subprocess
import sys
from contextlib import contextmanager, suppress

import psycopg
import pytest

from lvm_pipeline import doctor
from lvm_pipeline.adapters import nvidia
from lvm_pipeline.doctor import environment, services, source, storage, variables
from lvm_pipeline.doctor.diagnosis import State, Subject
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import CHECKOUT_DIR, Settings
from lvm_pipeline_tests.adapters.source_tables import execute, good_rows, load, with_changes
from lvm_pipeline_tests.adapters.test_postgres_writer import with_user
from lvm_pipeline_tests.diagnoses import by_subject, the_problem


@pytest.fixture
def tables(postgres_url, monkeypatch):
    """A healthy source database, named by the environment."""
    load(postgres_url, good_rows())
    monkeypatch.setenv("LVM_DATABASE_URL", postgres_url)
    return postgres_url


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.postgres
def test_a_healthy_machine_has_no_problem_and_nothing_is_changed(lvm_home, tables, capsys, monkeypatch):
    from lvm_pipeline.cli import commands

    monkeypatch.setattr(sys, "argv", ["lvm", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        commands.main()

    out = capsys.readouterr().out
    rows = {f"{row['area']} {row['subject']}": row for row in json.loads(out)}
    assert not ended.value.code, [row for row in rows.values() if row["state"] == "problem"]
    assert {row["area"] for row in rows.values()} == {
        "environment",
        "settings",
        "database",
        "storage",
        "dagster",
        "mlflow",
    }
    assert rows["database order"]["found"] == "by document_id, sequence_index"
    assert "25 rows" in rows["database tables"]["found"]
    assert psycopg.conninfo.conninfo_to_dict(tables)["password"] not in out
    made = {path.name for path in lvm_home.iterdir()}
    assert made - {"dagster"} == {"postgres"}  # a Dagster storage that other tests left on the server is looked into


@pytest.mark.postgres
def test_problems_are_shown_with_their_fix_and_exit_code_one(tables, capsys, monkeypatch):
    from lvm_pipeline.cli import commands

    parts = psycopg.conninfo.conninfo_to_dict(tables)
    monkeypatch.setenv("LVM_DATABASE_URL", tables.replace(parts["password"], "s3cret-word"))
    monkeypatch.setenv("LVM_EPOCH", "3")
    monkeypatch.setattr(doctor, "examine_environment", lambda settings: iter(()))  # slow, and tested below
    monkeypatch.setattr(doctor, "examine_storage", lambda settings: iter(()))
    monkeypatch.setattr(doctor, "examine_services", lambda settings: iter(()))
    monkeypatch.setattr(sys, "argv", ["lvm", "doctor"])
    monkeypatch.setenv("COLUMNS", "250")

    with pytest.raises(SystemExit) as ended:
        commands.main()

    out = capsys.readouterr().out
    assert ended.value.code == 1
    assert "refuses the user or password" in out
    assert "Fix: Correct LVM_DATABASE_URL." in out
    assert "Fix: Rename it to LVM_EPOCHS, or unset it." in out
    assert "2 problems" in out
    assert "s3cret-word" not in out


# Settings.


def test_a_misspelt_variable_is_reported_with_the_nearest_name(monkeypatch):
    monkeypatch.setenv("LVM_DATASET_SORCE", "user_input")
    monkeypatch.setenv("LVM_ZZZ", "1")
    monkeypatch.setenv("LVM_POSTGRES_PASSWORD", "for docker-compose.yml")

    result = {diagnosis.found.split()[0]: diagnosis for diagnosis in variables.examine_names()}

    assert result.keys() == {"LVM_DATASET_SORCE", "LVM_ZZZ"}
    assert result["LVM_DATASET_SORCE"].state is State.PROBLEM
    assert "LVM_DATASET_SOURCE" in result["LVM_DATASET_SORCE"].fix
    assert "lvm settings" in result["LVM_ZZZ"].fix


def test_every_variable_of_the_compose_file_is_known(monkeypatch):
    from lvm_pipeline_tests.adapters.compose import VARIABLE

    for match in VARIABLE.finditer((CHECKOUT_DIR / "docker-compose.yml").read_text()):
        monkeypatch.setenv(match["name"], "8080")

    (diagnosis,) = variables.examine_names()
    assert diagnosis.state is State.OK


def test_an_invalid_value_does_not_stop_the_other_checks(monkeypatch):
    monkeypatch.setenv("LVM_CONTEXT_LENGTH", "five")
    monkeypatch.setattr(doctor, "examine_environment", lambda settings: iter([Subject("environment", "x").ok("y")]))

    result = list(doctor.examine())

    assert "LVM_CONTEXT_LENGTH" in the_problem(result).found
    assert [diagnosis.area for diagnosis in result] == ["environment", "settings", "settings"]


def test_what_is_wrong_with_the_settings_is_a_whole_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("LVM_DATABASE_URL_FILE", str(tmp_path / "nowhere"))

    _, diagnosis = variables.read_settings()

    assert diagnosis.state is State.PROBLEM
    assert diagnosis.found.endswith("which cannot be read (No such file or directory); correct it")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train_fraction": 0.9, "validation_fraction": 0.3}, "come to more than 1"),
        ({"validation_articles": "nowhere.txt"}, "nowhere.txt, which does not exist"),
        ({"validation_articles": __file__, "split": "last_20_percent"}, "both choose the validation split"),
        ({"position_column": "place"}, "without LVM_ARTICLE_COLUMN"),
        ({"article_column": "page"}, "without LVM_POSITION_COLUMN"),
        ({"dagster_port": 4000, "mlflow_port": 4000}, "LVM_DAGSTER_PORT and LVM_MLFLOW_PORT are both 4000"),
        ({"dagster_port": 4000, "reports_port": 4000}, "LVM_DAGSTER_PORT and LVM_REPORTS_PORT are both 4000"),
        ({"retrained_architectures": "lstm gruu"}, "LVM_RETRAINED_ARCHITECTURES: There is no architecture gruu"),
        ({"severities": "order_is_kept=warning"}, "LVM_SEVERITIES names the check 'order_is_kept'"),
    ],
)
def test_contradicting_values_are_reported(tmp_path, values, words):
    problem = the_problem(variables.examine_agreement(Settings(home=tmp_path, **values)))

    assert words in problem.found


@pytest.mark.parametrize("values", [{}, {"article_column": "page", "accept_table_order": True}])
def test_values_that_agree_are_fine(tmp_path, values):
    (diagnosis,) = variables.examine_agreement(Settings(home=tmp_path, **values))
    assert diagnosis.state is State.OK


def test_the_leaking_mode_is_a_warning(tmp_path):
    (diagnosis,) = variables.examine_agreement(Settings(home=tmp_path, boundaries="ignore"))
    assert diagnosis.state is State.WARNING
    assert "LEAKING" in diagnosis.found


# Environment.


class Metadata(dict):
    """What an installed distribution says it needs."""

    def get_all(self, name):
        return self[name]


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("numpy>=99", "numpy is "),
        ("no-such-package-here>=1", "no-such-package-here is not installed (>=1 is needed)"),
    ],
)
def test_a_package_out_of_its_range_is_named(requirement, words):
    project = Metadata({"Requires-Dist": ["scipy>=1", requirement, "absent; extra == 'dev'"]})

    problem = the_problem([environment.examine_packages(project)])

    assert problem.found.startswith(words)
    assert "scipy" not in problem.found


def test_packages_are_not_called_right_where_the_requirements_are_unknown():
    assert environment.examine_packages(None).state is State.WARNING


def test_a_home_that_cannot_be_read_is_reported_and_nothing_else_is_asked(tmp_path, monkeypatch):
    def refuse(folder):
        raise LvmError(f"{folder}/server.json belongs to another user; set LVM_HOME to a folder of your own.")

    monkeypatch.setattr(doctor, "examine_environment", lambda settings: iter(()))
    monkeypatch.setattr(doctor.embedded_postgres, "status", refuse)

    problem = the_problem(doctor.examine())

    assert (problem.area, problem.subject) == ("storage", "LVM_HOME")
    assert problem.fix == "Set LVM_HOME to a folder of your own."


def test_packages_in_their_ranges_are_counted():
    diagnosis = environment.examine_packages(Metadata({"Requires-Dist": ["scipy>=1", "numpy"]}))
    assert (diagnosis.state, diagnosis.found) == (State.OK, "2 packages, each in its version range")


def test_a_python_out_of_range_is_reported():
    assert ">=9.9 is needed" in the_problem([environment.examine_python(Metadata({"Requires-Python": ">=9.9"}))]).found
    assert environment.examine_python(None).state is State.WARNING


def test_a_gpu_that_pytorch_cannot_use_is_reported(tmp_path, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine's GPU can be used")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA Model X, 570.1'\n")
    program.chmod(0o755)
    assert by_subject(environment.examine_devices("auto"))["environment GPU"].state is State.OK

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert nvidia.gpus() == ["NVIDIA Model X (driver 570.1)"]
    result = by_subject(environment.examine_devices("auto"))["environment GPU"]
    assert result.state is State.WARNING
    assert "NVIDIA Model X (driver 570.1) is installed, but" in result.found

    program.write_text("#!/bin/sh\nexit 9\n")
    assert nvidia.gpus() == []


def test_a_missing_device_is_reported():
    problem = the_problem(environment.examine_devices("cuda:7"))
    assert "cuda:7 is not here" in problem.found
    assert problem.fix == "Choose auto or cpu."


# Database.


@pytest.mark.postgres
def test_healthy_tables_are_described(tables, tmp_path):
    result = by_subject(source.examine_source(Settings(home=tmp_path)))

    assert {diagnosis.state for diagnosis in result.values()} == {State.OK}
    assert result["database vectors"].found == "one for every row, in the space test@1"


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE cpe_entry", "There is no table cpe_entry"),
        ("ALTER TABLE cpe_entry DROP COLUMN concept_text", "has no column concept_text"),
        ("DELETE FROM cpe_entry", "holds no rows"),
        ("DELETE FROM cpe_vectors WHERE cpe_id IN (SELECT cpe_id FROM cpe_vectors LIMIT 2)", "2 of 25 rows have no"),
        ("UPDATE cpe_entry SET sequence_index = 0, chunk_position = NULL, created_at = now()", "no rule orders"),
    ],
)
def test_tables_that_cannot_be_extracted_are_a_problem(tables, tmp_path, statement, words):
    execute(tables, statement)

    assert words in the_problem(source.examine_source(Settings(home=tmp_path))).found


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("password", "s3cret-word", "refuses the user or password"), ("port", "1", "No Postgres answers")],
)
def test_an_unreachable_database_is_reported_without_its_password(tables, tmp_path, monkeypatch, old, new, words):
    parts = psycopg.conninfo.conninfo_to_dict(tables)
    monkeypatch.setenv("LVM_DATABASE_URL", tables.replace(parts[old], new))

    problem = the_problem(source.examine_source(Settings(home=tmp_path)))

    assert words in problem.found
    assert not {parts["password"], "s3cret-word"} & set(f"{problem}".replace(":", " ").replace("@", " ").split())


@pytest.mark.postgres
def test_a_database_without_pgvector_is_a_warning(tables, tmp_path):
    execute(tables, "DROP EXTENSION vector CASCADE", "ALTER TABLE cpe_vectors ADD COLUMN concept_vec real[]")

    result = by_subject(source.examine_source(Settings(home=tmp_path)))

    assert result["database pgvector"].state is State.WARNING
    assert "CREATE EXTENSION vector" in result["database pgvector"].fix


@pytest.mark.postgres
def test_row_level_security_that_may_hide_rows_is_a_warning(tables, tmp_path, monkeypatch):
    monkeypatch.setenv("LVM_DATABASE_URL", with_user(tables, "policed_reader", "secret-word"))
    execute(
        tables,
        "DROP ROLE IF EXISTS policed_reader",
        "CREATE ROLE policed_reader LOGIN PASSWORD 'secret-word'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO policed_reader",
        "ALTER TABLE cpe_entry ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY early ON cpe_entry FOR SELECT USING (sequence_index < 2)",
    )
    try:
        result = by_subject(source.examine_source(Settings(home=tmp_path)))["database row-level security"]
    finally:
        execute(tables, "DROP OWNED BY policed_reader", "DROP ROLE policed_reader")

    assert result.state is State.WARNING
    assert result.found == "row-level security of cpe_entry may hide rows from this user"


@pytest.mark.postgres
@pytest.mark.parametrize("space_id", [None, "undeclared-32"])  # the latter is what `lvm ingest` writes
def test_vectors_of_an_undeclared_space_are_a_warning(postgres_url, tmp_path, space_id):
    load(postgres_url, with_changes(good_rows(), {}), space_id=space_id)
    nameless = by_subject(source.examine_source(Settings(home=tmp_path, database_url=postgres_url)))
    named = by_subject(source.examine_source(Settings(home=tmp_path, database_url=postgres_url, space_id="x@1")))
    assert nameless["database vectors"].state is State.WARNING
    assert named["database vectors"].found.endswith("in the space x@1")


def test_a_fresh_home_is_no_problem_and_stays_untouched(tmp_path):
    settings = Settings(home=tmp_path / "fresh")

    (result,) = source.examine_source(settings)

    assert result.state is State.WARNING
    assert "lvm ingest FILE" in result.fix
    assert [d.state for d in services.examine_services(settings)] == [State.OK, State.OK]
    assert not settings.home.exists()


# Storage.


@contextmanager
def small_disk(folder, size):
    """A file system of its own, in memory."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False)
    if done.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_too_small_for_the_data_is_reported(root, open_tmp_path):
    with small_disk(open_tmp_path, "1m"):
        problem = the_problem([storage.examine_disk(open_tmp_path / "home", needed_bytes=2_000_000)])
        assert problem.found.startswith("0.0 GB free")
        assert storage.examine_disk(open_tmp_path / "home", needed_bytes=500_000).state is State.OK
        assert storage.examine_home(open_tmp_path).state is State.OK

        with suppress(OSError), (open_tmp_path / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert "no space left" in the_problem([storage.examine_home(open_tmp_path)]).found


@pytest.mark.parametrize(("mode", "name"), [(0o755, ""), (0o700, "home")], ids=["unwritable", "in a closed folder"])
def test_a_home_without_write_permission_is_reported(root, open_tmp_path, mode, name):
    home = open_tmp_path / "home"
    home.mkdir(mode=mode)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            result = storage.examine_home(home / name)
            code = 0 if result.state is State.PROBLEM and "permission denied" in result.found else 2
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(home.iterdir()) == []


@pytest.mark.postgres
def test_room_is_asked_for_what_the_source_holds(tables, tmp_path):
    size = storage.source_bytes(Settings(home=tmp_path))
    execute(tables, "UPDATE cpe_entry SET concept_text = repeat(md5(random()::text), 10000)")

    assert 0 < size < storage.source_bytes(Settings(home=tmp_path))


def test_an_unknown_preset_is_reported(tmp_path):
    problem = the_problem(storage.examine_storage(Settings(home=tmp_path, preset="huge")))
    assert "preset huge" in problem.found


def test_an_error_is_split_into_finding_and_fix():
    subject = Subject("a", "b")

    result = subject.refused(LvmError("It broke; it is old; mend it."), fix="Other.")
    assert (result.found, result.fix) == ("It broke; it is old", "Mend it.")
    assert subject.refused("It broke.", fix="Other.").fix == "Other."
