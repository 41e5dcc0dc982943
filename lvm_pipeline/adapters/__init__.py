"""Everything outside the process: the embedded Postgres, readers and writers of tables, MLflow, child processes."""
