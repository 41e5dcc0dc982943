"""What a person does in the browser: look at the lineage, materialise an asset by a click, read its checks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from lvm_pipeline.adapters import databases, services
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.defs.resources import settings_environment
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.defs.source_table import fill_source

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

LINEAGE = ["cpe_entry", "concepts", "sequences", "trained_model", "evaluation_report", "leaderboard", "champion"]
BROWSER_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
SLOW_MS = 180_000  # a run of a training, on a busy machine
NEWEST_RUN = "{ runsOrError(limit: 1) { ... on Runs { results { runId status jobName } } } }"


@pytest.fixture(scope="module")
def settings(open_tmp_path_factory):
    """A home of this module's own, its source table filled, trainings as small as can be."""
    settings = Settings(
        home=open_tmp_path_factory() / "lvm_home",
        preset="smoke",
        epochs=1,
        num_threads=1,
        dagster_port=free_port(),
        mlflow_port=free_port(),
    )
    fill_source(databases.source_url(settings), [12] * 40)
    return settings


@pytest.fixture(scope="module")
def ui(settings):
    """The address of the web UI of running services."""
    process = subprocess.Popen(
        [Path(sys.prefix) / "bin" / "lvm", "ui"],
        env=os.environ | settings_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = ""
    while "Ctrl-C" not in output:
        line = process.stdout.readline()
        assert line, f"the services did not come up: {output}"
        output += line
    yield services.dagster_address(settings)
    process.terminate()
    process.communicate(timeout=120)


@pytest.fixture(scope="module")
def browser(request):
    from lvm_pipeline_tests.conftest import chromium_path

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=BROWSER_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, ui):
    """A page that must ask nobody but the web server."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(60_000)
    addresses = set()
    page.on("request", lambda request: addresses.add(request.url))
    yield page
    page.close()
    assert {address for address in addresses if not address.startswith((ui, "data:", f"blob:{ui}"))} == set()


def open_page(page, address):
    page.goto(address, wait_until="domcontentloaded")


def newest_run(page, ui):
    body = json.dumps({"query": NEWEST_RUN})
    answer = page.request.post(f"{ui}/graphql", data=body, headers={"Content-Type": "application/json"}).json()
    return next(iter(answer["data"]["runsOrError"]["results"]), {"runId": None, "status": None})


def wait_for_new_run(page, ui, before):
    for _ in range(SLOW_MS // 500):
        run = newest_run(page, ui)
        if run["runId"] != before["runId"] and run["status"] in {"SUCCESS", "FAILURE", "CANCELED"}:
            return run
        page.wait_for_timeout(500)
    raise AssertionError(f"no new run ended: {newest_run(page, ui)}")


def materialise(page, ui, asset, *, partition=None):
    """Click Materialize on an asset's page, choose a partition where there are any, and wait for the end of the run."""
    before = newest_run(page, ui)
    open_page(page, f"{ui}/assets/{asset}")
    page.get_by_role("button", name=re.compile("^Materialize")).first.click()
    if partition is not None:
        dialog = page.get_by_role("dialog")
        box = dialog.get_by_role("textbox").first
        box.fill(partition)
        box.press("Tab")
        dialog.get_by_role("button", name=re.compile("Launch")).click()
    return wait_for_new_run(page, ui, before)


def test_lineage_is_shown_whole(page, ui):
    open_page(page, f"{ui}/asset-groups")
    expect(page.get_by_text(re.compile("Materialize all")).first).to_be_visible()
    page.keyboard.press("Alt+e")  # expands the groups

    for asset in LINEAGE:
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()


def test_assets_are_materialised_by_clicking_and_show_their_checks(page, ui, settings):
    for asset, check in (("concepts", "no_duplicate_concepts"), ("sequences", "window_count_is_exact")):
        assert materialise(page, ui, asset)["status"] == "SUCCESS"

        open_page(page, f"{ui}/assets/{asset}?view=checks")
        expect(page.get_by_text(check).first).to_be_visible()
        expect(page.get_by_text("Passed").first).to_be_visible()
    assert settings.sequences_path.exists()


def test_an_architecture_is_trained_and_scored_by_clicking(page, ui, settings):
    for asset in ("trained_model", "evaluation_report"):
        assert materialise(page, ui, asset, partition="gru")["status"] == "SUCCESS"

    open_page(page, f"{ui}/assets/evaluation_report?view=partitions&partition=gru")
    expect(page.get_by_text("cosine_is_above_minimum_viable").or_(page.get_by_text("predictors")).first).to_be_visible()
    assert (settings.reports_dir / "gru" / "report.html").exists()
