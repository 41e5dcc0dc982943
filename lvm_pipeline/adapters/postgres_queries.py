"""The queries of the reader: which rows there are, how a rule orders them, and all of them in order.

Names come from settings and are quoted. The only value, the filter, is in a session variable, because the driver does
not stream queries with parameters.
"""

from psycopg import sql

from lvm_pipeline.adapters.postgres_tables import Table, Tables
from lvm_pipeline.adapters.vector_columns import ARRAY_TYPES, CAST_ARRAY_TYPES, JSON_TYPES
from lvm_pipeline.concepts.ordering import ColumnKind, KeyForm, KeyPart, OrderRule
from lvm_pipeline.errors import LvmError
from lvm_pipeline.findings import MAX_LISTED

FILTER_VARIABLE = "lvm.dataset_source"
FILTER_COLUMN = "dataset_source"
ARTICLES_VARIABLE = "lvm.articles"
CODE_COLUMNS = {"domain": "domain_code", "task": "task_code", "modifier": "modifier_code"}
NEGATIVE_COLUMNS = ("soft_negatives", "hard_negatives")
WHOLE_NUMBER = r"^\s*-?[0-9]{1,15}(\.0+)?\s*$"
TEXT_TYPES = ("text", "varchar", "bpchar", "name")
UUID_TEXT = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
TABLE_ORDER = "lvm_table_order"
# The type json and text may hold the escape of NUL, which no text can.
JSON_VALUE = r"(replace({0}::text, '\u0000', '')::json ->> {1})"
JSON_TEXT_VALUE = r"CASE WHEN {0} IS JSON OBJECT THEN (replace({0}, '\u0000', '')::json ->> {1}) END"
Key = tuple[sql.Composable, sql.Composable | None]  # SQL of article and position


def rows_of(
    tables: Tables, *, is_filtered: bool, with_vectors: bool = False, is_numbered: bool = False
) -> sql.Composable:
    """Return `FROM ... WHERE ...` of the selected rows.

    Args:
        is_filtered: Only those of the dataset source.
        with_vectors: Joined to their vectors, if those are in a table of their own.
        is_numbered: With their number in the order in which the table returns them, for tables that have no `ctid`.
    """
    entry, join = tables.entry.identifier, sql.SQL("")
    if is_numbered:
        entry = sql.SQL("(SELECT *, row_number() OVER () AS {} FROM {})").format(sql.Identifier(TABLE_ORDER), entry)
    if with_vectors and tables.vectors is not None:
        ids = [_comparable_id(table) for table in (tables.vectors, tables.entry)]
        if tables.vectors.types["cpe_id"] == tables.entry.types["cpe_id"] == "uuid":
            ids = [table.column("cpe_id") for table in (tables.vectors, tables.entry)]
        join = sql.SQL(" LEFT JOIN {} v ON {} = {}").format(tables.vectors.identifier, *ids)
    where = sql.SQL("true")
    if is_filtered:
        where = sql.SQL("e.{}::text = (SELECT current_setting({}))").format(
            sql.Identifier(FILTER_COLUMN), FILTER_VARIABLE
        )
    return sql.SQL("FROM {} e{} WHERE {}").format(entry, join, where)


def _comparable_id(table: Table) -> sql.Composable:
    """Return the id as text, UUIDs in lower case; other texts may differ by case alone."""
    if table.types["cpe_id"] not in TEXT_TYPES:
        return sql.SQL("{}::text").format(table.column("cpe_id"))
    return sql.SQL("CASE WHEN {0} ~ {1} THEN lower({0}::text) ELSE {0}::text END").format(
        table.column("cpe_id"), UUID_TEXT
    )


def nested_query(table: Table, column: str, rows: sql.Composable) -> sql.Composable | None:
    """Find a row whose vector is an array of several dimensions; None for a column that holds no arrays."""
    if table.types[column] not in (*ARRAY_TYPES, *CAST_ARRAY_TYPES):
        return None
    return sql.SQL(
        "SELECT e.cpe_id::text AS cpe_id, array_dims({0}) AS dims {1} AND array_ndims({0}) > 1 LIMIT 1"
    ).format(table.column(column), rows)


def sources_query(entry: Table) -> sql.Composable:
    """Count the rows of each dataset source; one row with a null source if the table has no such column."""
    if FILTER_COLUMN not in entry.types:
        return sql.SQL("SELECT NULL::text AS name, count(*) AS num_rows FROM {} e").format(entry.identifier)
    return sql.SQL("SELECT e.{}::text AS name, count(*) AS num_rows FROM {} e GROUP BY 1 ORDER BY 2 DESC, 1").format(
        sql.Identifier(FILTER_COLUMN), entry.identifier
    )


def spaces_query(tables: Tables, rows: sql.Composable) -> sql.Composable:
    """Count the vectors of each space id; undeclared ones under null."""
    holder = tables.holder("space_id")
    space = sql.SQL("NULLIF({}::text, '')").format(holder.column("space_id")) if holder else sql.SQL("NULL::text")
    vector = tables.vector_home.column(tables.vector_column)
    return sql.SQL("SELECT {} AS name, count(*) AS num_rows {} AND {} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC").format(
        space, rows, vector
    )


def packed_codes_query(entry: Table, rows: sql.Composable) -> sql.Composable | None:
    """Count the packed TMD codes by packing; None if the table has no packed codes."""
    if not {"tmd_bits", *CODE_COLUMNS.values()} <= set(entry.types):
        return None
    bits = sql.SQL("{} & 65535").format(_whole_number(entry, "tmd_bits"))
    codes = {name: _whole_number(entry, column) for name, column in CODE_COLUMNS.items()}
    return sql.SQL(
        "SELECT count(*) AS num_rows, count(*) FILTER (WHERE bits = known) AS num_known, "
        "count(*) FILTER (WHERE bits <> known AND bits = shifted) AS num_shifted "
        "FROM (SELECT bits, (d << 11) | (t << 6) | m AS known, ((d << 12) | (t << 7) | (m << 1)) & 65535 AS shifted "
        "FROM (SELECT {} AS bits, {} AS d, {} AS t, {} AS m {}) AS codes WHERE bits + d + t + m IS NOT NULL) AS packed"
    ).format(bits, codes["domain"], codes["task"], codes["modifier"], rows)


def _whole_number(entry: Table, column: str) -> sql.Composable:
    """Return the SQL of a column's values as bigint; null where a value is no whole number."""
    if entry.kinds()[column] is ColumnKind.INTEGER:
        return sql.SQL("{}::bigint").format(entry.column(column))
    return sql.SQL("CASE WHEN {0}::text ~ {1} THEN {0}::text::numeric::bigint END").format(
        entry.column(column), sql.Literal(WHOLE_NUMBER)
    )


def key_of(rule: OrderRule, entry: Table) -> Key:
    """Return the SQL of a rule's article and position."""
    return _part(rule.article, entry), _part(rule.position, entry) if rule.position else None


def key_query(rule: OrderRule, entry: Table, rows: sql.Composable) -> sql.Composable:
    """Count rows with a key, articles, their first positions and those with several rows at one position."""
    article, position = key_of(rule, entry)
    is_number = rule.position is not None and rule.position.form is KeyForm.NUMBER
    starts = (
        sql.SQL(
            "count(*) FILTER (WHERE first = 0) AS num_from_zero, count(*) FILTER (WHERE first = 1) AS num_from_one, "
            "count(*) FILTER (WHERE last - first + 1 = num_positions) AS num_gapless"
        )
        if is_number
        else sql.SQL("0 AS num_from_zero, 0 AS num_from_one, NULL::bigint AS num_gapless")
    )
    return sql.SQL(
        "SELECT count(*) AS num_articles, coalesce(sum(num_rows), 0)::bigint AS num_keyed, "
        "count(*) FILTER (WHERE num_rows > num_positions) AS num_tied, {} FROM ("
        "SELECT article, sum(num)::bigint AS num_rows, count(*) AS num_positions, min(position) AS first, "
        "max(position) AS last FROM ("
        "SELECT {} AS article, {} AS position, count(*) AS num {} GROUP BY 1, 2) AS positions "
        "WHERE article IS NOT NULL AND position IS NOT NULL GROUP BY article) AS articles"
    ).format(starts, article, position or sql.SQL("0"), rows)


def tied_query(rule: OrderRule, entry: Table, rows: sql.Composable) -> sql.Composable:
    """List articles with *different* texts at one position, with their rows and distinct positions, the worst first."""
    article, position = key_of(rule, entry)
    return sql.SQL(
        "SELECT article::text AS article_id, sum(num)::bigint AS num_rows, count(*) AS num_distinct, "
        "count(*) OVER () AS num_articles FROM ("
        "SELECT {} AS article, {} AS position, count(*) AS num, "
        "count(DISTINCT md5(coalesce(e.concept_text::text, ''))) > 1 AS is_tied {} GROUP BY 1, 2) AS positions "
        "WHERE article IS NOT NULL AND position IS NOT NULL GROUP BY article HAVING bool_or(is_tied) "
        "ORDER BY sum(num) - count(*) DESC, 1 LIMIT {}"
    ).format(article, position or sql.SQL("0"), rows, MAX_LISTED)


def mixed_query(rule: OrderRule, entry: Table, rows: sql.Composable) -> sql.Composable | None:
    """List article keys under which a witness has several values; None if the table has no witness."""
    witnesses = [part for part in rule.witnesses if part.column in entry.types]
    if not witnesses:
        return None
    article, _ = key_of(rule, entry)
    names = [sql.Identifier(f"witness_{number}") for number in range(len(witnesses))]
    columns = [
        sql.SQL("{} AS {}").format(_text(part, entry), name) for part, name in zip(witnesses, names, strict=True)
    ]
    counts = [sql.SQL("count(DISTINCT {})").format(name) for name in names]
    most = sql.SQL("greatest({})").format(sql.SQL(", ").join(counts))
    return sql.SQL(
        "SELECT article::text AS article_id, count(*) AS num_rows, {} AS num_distinct, "
        "count(*) OVER () AS num_articles FROM (SELECT {} AS article, {} {}) AS keyed "
        "WHERE article IS NOT NULL GROUP BY article HAVING {} > 1 ORDER BY 3 DESC, 1 LIMIT {}"
    ).format(most, article, sql.SQL(", ").join(columns), rows, most, MAX_LISTED)


def ordered_query(rule: OrderRule, tables: Tables, rows: sql.Composable) -> sql.Composable:
    """Select every column of the concept table, in the rule's order.

    Raises:
        LvmError: If created_at is no time.
    """
    article, position = key_of(rule, tables.entry)
    tmd_table = tables.holder("tmd_dense")
    columns = {
        "cpe_id": sql.SQL("e.cpe_id::text"),
        "article_id": sql.SQL("({})::text").format(article),
        "source_position": position if rule.is_counted and position else sql.SQL("NULL::bigint"),
        "concept_text": sql.SQL("e.concept_text::text"),
        **{name: _code(tables.entry, column) for name, column in CODE_COLUMNS.items()},
        "tmd_dense": _vector(tmd_table, "tmd_dense") if tmd_table else sql.SQL("NULL::real[]"),
        **{name: _negatives(tables.entry, name) for name in NEGATIVE_COLUMNS},
        "created_at": _time(tables.entry, "created_at"),
        "vector": _vector(tables.vector_home, tables.vector_column),
    }
    selected = sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(value, sql.Identifier(name)) for name, value in columns.items()
    )
    return sql.SQL("SELECT {} {} ORDER BY {}").format(
        selected, rows, sql.SQL(", ").join(_sort_keys(rule, tables.entry))
    )


def article_order(rule: OrderRule, entry: Table) -> sql.Composable:
    """Return what `ordered_query` orders the articles by."""
    return _sort_keys(rule, entry)[0]


def only_articles(rule: OrderRule, entry: Table, rows: sql.Composable) -> sql.Composable:
    """Limit the selected rows to the articles that a session variable lists as JSON."""
    article, _ = key_of(rule, entry)
    return sql.SQL("{} AND ({})::text IN (SELECT jsonb_array_elements_text(current_setting({})::jsonb))").format(
        rows, article, ARTICLES_VARIABLE
    )


def _sort_keys(rule: OrderRule, entry: Table) -> list[sql.Composable]:
    article, position = key_of(rule, entry)
    keys = [article if rule.article.form is KeyForm.NUMBER else sql.SQL('({}) COLLATE "C"').format(article)]
    if position:
        keys.append(position)
    if rule.accepts_table_order and entry.is_view:
        keys.append(sql.Identifier("e", TABLE_ORDER))
    elif rule.accepts_table_order:
        keys += [sql.SQL("e.tableoid"), sql.SQL("e.ctid")]
    return [*keys, sql.SQL("e.cpe_id")]


def _part(part: KeyPart, entry: Table) -> sql.Composable:
    column = sql.Identifier("e", part.column)
    if part.form is KeyForm.NATIVE:
        return column
    if part.form is KeyForm.TEXT:
        return _text(part, entry)
    kind = entry.kinds()[part.column]
    if kind is ColumnKind.INTEGER:
        return sql.SQL("{}::bigint").format(column)
    if kind is ColumnKind.NUMBER:
        return sql.SQL("CASE WHEN {0} = trunc({0}) AND abs({0}) < 1e15 THEN {0}::bigint END").format(column)
    return sql.SQL("CASE WHEN {0} ~ {1} THEN {0}::numeric::bigint END").format(_text(part, entry), WHOLE_NUMBER)


def _text(part: KeyPart, entry: Table) -> sql.Composable:
    column = sql.Identifier("e", part.column)
    if part.json_key is None:
        return sql.SQL("{}::text").format(column)
    if entry.types[part.column] == "jsonb":
        return sql.SQL("({} ->> {})").format(column, part.json_key)
    query = JSON_VALUE if entry.kinds()[part.column] is ColumnKind.JSON else JSON_TEXT_VALUE
    return sql.SQL(query).format(column, part.json_key)


def _code(entry: Table, column: str) -> sql.Composable:
    """Select a TMD code as text, for `optional_columns.parse_codes`."""
    return sql.SQL("{}::text").format(entry.column(column)) if column in entry.types else sql.SQL("NULL::text")


def _time(entry: Table, column: str) -> sql.Composable:
    """Select a time; text stays text, and what Arrow or Python cannot hold (infinity, years before 1) is null."""
    if column not in entry.types:
        return sql.SQL("NULL::timestamptz")
    kind, value = entry.kinds()[column], entry.column(column)
    if kind is ColumnKind.TEXT:
        return sql.SQL("{}::text").format(value)
    if kind is not ColumnKind.TIME:
        raise LvmError(
            f"{entry.name}.{column} has the type {entry.types[column]}, which is no time; make it timestamptz (as by "
            f"to_timestamp), or give it another name: a view over the table will do."
        )
    return sql.SQL(
        "CASE WHEN isfinite({0}) AND {0} >= '0001-01-02' AND {0} < '9999-12-31' THEN {0}::timestamptz END"
    ).format(value)


def _negatives(entry: Table, column: str) -> sql.Composable:
    if column not in entry.types:
        return sql.SQL("NULL::text")
    if entry.types[column] in ("json", "jsonb"):
        return sql.SQL("{}::text").format(entry.column(column))
    return sql.SQL("to_json({})::text").format(entry.column(column))


def _vector(table: Table, column: str) -> sql.Composable:
    type_name = table.types[column]
    if type_name in JSON_TYPES:
        return sql.SQL("{}::text").format(table.column(column))
    if type_name in CAST_ARRAY_TYPES:
        return sql.SQL("{}::real[]").format(table.column(column))
    return table.column(column)
