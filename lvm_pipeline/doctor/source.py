"""Examine the source tables: connection, columns, order, vectors."""

from collections.abc import Iterator

from lvm_pipeline import lineage
from lvm_pipeline.adapters import databases, embedded_postgres, postgres_facts
from lvm_pipeline.adapters.postgres_reader import PostgresTable
from lvm_pipeline.concepts.ordering import choose_order
from lvm_pipeline.concepts.reader import SourceDescription
from lvm_pipeline.concepts.source_findings import choose_space
from lvm_pipeline.doctor.diagnosis import Diagnosis, Subject
from lvm_pipeline.errors import LvmError
from lvm_pipeline.settings import Settings
from lvm_pipeline.words import counted

SERVER = Subject("database", "server")
PGVECTOR = Subject("database", "pgvector")
TABLES = Subject("database", "tables")
SECURITY = Subject("database", "row-level security")
ORDER = Subject("database", "order")
VECTORS = Subject("database", "vectors")
FILL = "Fill it with `lvm ingest FILE`, or with real text by `lvm demo`."


def never_started(settings: Settings) -> bool:
    """Whether there is no embedded server yet."""
    return embedded_postgres.status(settings.postgres_dir).folder is None


def examine_source(settings: Settings) -> Iterator[Diagnosis]:
    """Examine server, tables and rows as an extraction would."""
    if settings.database_url is None and never_started(settings):
        yield SERVER.warning(f"the built-in Postgres of {settings.home} was never started, so it has no concepts", FILL)
        return
    try:
        url = databases.source_url(settings)
        facts = postgres_facts.server_facts(url)
    except LvmError as error:
        yield SERVER.refused(error, fix="Correct LVM_DATABASE_URL.")
        return
    yield SERVER.ok(f"Postgres {facts.version} at {facts.where}")
    yield _pgvector(facts)
    try:
        with lineage.source_reader(settings).open() as table:
            yield from _examine_table(table, settings)
    except LvmError as error:
        yield TABLES.refused(error, fix=FILL)


def source_bytes(settings: Settings) -> int:
    """Return the size of the source tables, 0 if it is unknown."""
    if settings.database_url is None and never_started(settings):
        return 0
    try:
        return postgres_facts.size_bytes(databases.source_url(settings), [settings.entry_table, settings.vector_table])
    except LvmError:
        return 0  # `examine_source` reports it


def _pgvector(facts: postgres_facts.ServerFacts) -> Diagnosis:
    if facts.pgvector:
        return PGVECTOR.ok(f"{facts.pgvector} in the database")
    if facts.available_pgvector:
        return PGVECTOR.warning(
            f"{facts.available_pgvector} is not enabled in the database; vectors can only be read as arrays",
            "Run CREATE EXTENSION vector in the database as its owner.",
        )
    return PGVECTOR.warning(
        "not on the server; vectors can be read as arrays, but `lvm ingest` cannot load them",
        "Install it there (package postgresql-NN-pgvector).",
    )


def _examine_table(table: PostgresTable, settings: Settings) -> Iterator[Diagnosis]:
    described = table.describe()
    yield TABLES.ok(
        f"{counted(described.num_rows, 'row')} of {described.dataset_source} in {table.tables.entry.name}, "
        f"vectors in {table.tables.vector_name}"
    )
    hiding = [each.name for each in (table.tables.entry, table.tables.vectors) if each and each.hides_rows]
    if hiding:
        yield SECURITY.warning(
            f"row-level security of {' and '.join(hiding)} may hide rows from this user",
            "Connect as the owner, or check the policies for SELECT.",
        )
    decision = choose_order(described.column_kinds, table.examine, request=lineage.extract_options(settings))
    if decision.rule is None:
        yield ORDER.refused(decision.finding.message, fix="Set the columns that hold the order.")
    elif decision.warning:
        yield ORDER.warning(decision.warning, "Set the columns that hold the order, if there are any.")
    else:
        yield ORDER.ok(f"by {decision.rule.name}")
    yield _vectors(described, settings.space_id)


def _vectors(described: SourceDescription, wanted_space: str | None) -> Diagnosis:
    num_missing = described.num_rows - sum(described.space_counts.values())
    if num_missing > 0:
        return VECTORS.problem(
            f"{num_missing:,} of {described.num_rows:,} rows have no vector",
            "Encode them or delete them; `lvm verify` lists their ids.",
        )
    space, failure = choose_space(described.space_counts, wanted=wanted_space)
    if failure is not None:
        return VECTORS.refused(failure.message, fix="Encode all concepts with one encoder.")
    if space is None:
        return VECTORS.warning(
            "their encoder is not declared, so encoders and decoders cannot be checked", "Set LVM_SPACE_ID."
        )
    return VECTORS.ok(f"one for every row, in the space {space}")
