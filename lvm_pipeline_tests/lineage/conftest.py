from lvm_pipeline_tests.timed_briefly import timed_briefly  # noqa: F401 - a fixture
