"""The thin Dagster shell: partitions, resources, checks, progress, one file an asset, jobs, schedules, launch."""
