"""Definitions that load in a moment and hold one asset that takes long, for the tests of the services."""

import time

import dagster as dg


@dg.asset(pool="gpu")
def takes_long():
    time.sleep(3600)


defs = dg.Definitions(assets=[takes_long])
