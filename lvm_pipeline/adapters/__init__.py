"""Everything outside the process: the built-in Postgres, readers and writers of tables, MLflow, child processes."""
