"""Private names of MLflow that this project uses. Nothing else in the package imports a name with an underscore.

Import it inside functions: it imports MLflow, which takes seconds.
"""

from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry as artifact_repositories

# MLflow makes and checks its tables under a lock in the system's temp folder, which users of one machine share.
from mlflow.store.db.utils import _all_tables_exist as all_tables_exist
from mlflow.store.db.utils import _initialize_tables as initialize_tables
from mlflow.store.db.utils import _make_parent_dirs_if_sqlite as make_parent_dirs_if_sqlite
from mlflow.store.db.utils import _verify_schema as verify_schema  # says whether the tables belong to this MLflow
