"""Private names of Dagster that this project uses. Nothing else in the package imports from `dagster._core`."""

from dagster._core.errors import (
    DagsterPipesExecutionError,  # raised by Pipes when the training's process fails
    DagsterUserCodeUnreachableError,  # raised while a code server does not answer
)
from dagster._core.instance.ref import InstanceRef  # opens an instance with settings of its own, without a dagster.yaml
from dagster._core.scheduler.instigation import InstigatorStatus  # filters schedules and sensors by their switch
from dagster._core.storage.asset_check_execution_record import (  # results of one check; the public API has no list
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager  # leaves output on the terminal
from dagster._core.storage.tags import (  # the keys have no public constant
    AUTOMATION_CONDITION_TAG,
    GRPC_INFO_TAG,
    PARTITION_NAME_TAG,
    SCHEDULE_NAME_TAG,
)
from dagster._grpc.client import DagsterGrpcClient  # asks a code server which runs it executes
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value
