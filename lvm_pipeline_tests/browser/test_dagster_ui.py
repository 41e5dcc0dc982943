"""The Dagster UI in a browser: show the lineage, materialise an asset with a click, read its checks.

`--screenshots FOLDER` saves a picture of every page.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from lvm_pipeline.adapters import databases, embedded_postgres, services
from lvm_pipeline.adapters.loopback import free_port
from lvm_pipeline.settings import Settings, settings_environment
from lvm_pipeline_tests.adapters.processes import processes_of, wait_until
from lvm_pipeline_tests.conftest import chromium_path
from lvm_pipeline_tests.defs.source_table import fill_source

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]

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
PATIENCE_MS = 120_000  # for a page, on a busy machine
RUN_PATIENCE_MS = 300_000  # for a run with a training in it
NEWEST_RUN = "{ runsOrError(limit: 1) { ... on Runs { results { runId status } } } }"

NOT_MADE = re.compile("Not evaluated|Not executed|not been executed|No executions|Never|Skipped", re.IGNORECASE)
VERDICT = re.compile(r"Cosine -?0\.\d{4}; (beats|does not beat) the best baseline, ")

expect.set_options(timeout=PATIENCE_MS)


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
        reports_port=free_port(),
    )
    fill_source(databases.source_url(settings), [12] * 40)
    yield settings
    embedded_postgres.stop(settings.postgres_dir)


def services_of(home):
    """Processes of a home but its database, which ran before the services."""
    return [process for process in processes_of(home) if process.name() != "postgres"]


@pytest.fixture(scope="module")
def ui(settings):
    """The address of the web UI of running services, which are up to the end and then leave no process."""
    log_path = settings.home.parent / "ui.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [Path(sys.prefix) / "bin" / "lvm", "ui"],
            env=os.environ | settings_environment(settings),
            stdout=log,
            stderr=log,
        )
    try:
        is_up = wait_until(lambda: "Ctrl-C" in log_path.read_text() or process.poll() is not None, seconds=600)
        assert is_up, "the services did not come up in time"
        assert process.poll() is None, log_path.read_text()
        yield services.dagster_address(settings)
        assert process.poll() is None, log_path.read_text()
    finally:
        process.terminate()
        process.wait(timeout=120)
    assert wait_until(lambda: not services_of(settings.home), seconds=60), services_of(settings.home)


@pytest.fixture(scope="module")
def browser_window():
    """One window for all tests, so that the UI's scripts are loaded once."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=BROWSER_OPTIONS)
        window = browser.new_context(viewport={"width": 1600, "height": 1000})
        window.set_default_timeout(PATIENCE_MS)
        yield window
        browser.close()


@pytest.fixture
def page(browser_window, ui, request):
    """A page that must ask nobody but the web server, and must run without an error of its own."""
    page = browser_window.new_page()
    addresses, errors = set(), []
    page.on("request", lambda asked: addresses.add(asked.url))
    page.on("pageerror", lambda error: errors.append(error))  # a method cannot carry its mark
    yield page
    folder = request.config.getoption("--screenshots")
    if folder is not None:
        page.screenshot(path=folder / f"{request.node.name}-end.png", full_page=True)
    page.close()
    assert {address for address in addresses if not address.startswith((ui, "data:", f"blob:{ui}"))} == set()
    assert errors == []


@pytest.fixture
def look(page, ui, request):
    """Open a page of the UI and wait until it shows what is expected."""
    folder = request.config.getoption("--screenshots")

    def look(path, *expected):
        page.goto(f"{ui}/{path}", wait_until="domcontentloaded")
        for words in expected:
            expect(page.get_by_text(words).first).to_be_visible()
        if folder is not None:
            name = re.sub(r"\W+", "-", path)
            page.screenshot(path=folder / f"{request.node.name}-{name}.png")

    return look


def newest_run(page, ui):
    body = json.dumps({"query": NEWEST_RUN})
    answer = page.request.post(f"{ui}/graphql", data=body, headers={"Content-Type": "application/json"}).json()
    return next(iter(answer["data"]["runsOrError"]["results"]), {"runId": None, "status": None})


def wait_for_new_run(page, ui, before):
    for _ in range(RUN_PATIENCE_MS // 500):
        run = newest_run(page, ui)
        if run["runId"] != before["runId"] and run["status"] in {"SUCCESS", "FAILURE", "CANCELED"}:
            return run
        page.wait_for_timeout(500)
    raise AssertionError(f"no new run ended: {newest_run(page, ui)}")


def materialise(page, ui, asset, *, partition=None):
    """Click Materialize on an asset's page, choose a partition where there are any, and wait for the end of the run."""
    before = newest_run(page, ui)
    page.goto(f"{ui}/assets/{asset}", wait_until="domcontentloaded")
    page.get_by_role("button", name="Materialize").first.click()
    if partition is not None:
        page.get_by_text("Select a partition").click()
        page.get_by_role("menuitem").filter(has_text=re.compile(rf"^{partition}")).click()
        page.get_by_text(re.compile("^Launch runs to materialize")).click()  # closes the list
        page.get_by_role("button", name=re.compile("^Launch")).click()
    return wait_for_new_run(page, ui, before)["status"]


def test_lineage_is_shown_whole(page, look):
    look("asset-groups", "Materialize all")
    page.keyboard.press("Alt+e")  # expands the groups

    for asset in LINEAGE:
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()


def test_data_are_materialised_by_clicking_and_show_rows_columns_and_checks(page, look, ui, settings):
    assert materialise(page, ui, "concepts") == "SUCCESS"
    look("assets/concepts", "Row count", "480", "article_index", "order_key", "document_id, sequence_index")
    look("assets/concepts?view=checks&checkDetail=no_duplicate_concepts", "This is a blocking asset check", "Passed")
    for words in ("observed", "allowed", "Plots"):
        expect(page.get_by_text(words, exact=True).first).to_be_visible()

    assert materialise(page, ui, "sequences") == "SUCCESS"
    look("assets/sequences", "Row count", str(40 * (12 - 5)), "target_row")
    assert settings.sequences_path.exists()


def test_checks_that_were_not_made_are_no_pass(look, page):
    look("assets/concepts?view=checks&checkDetail=mean_vector_is_as_before", "mean_vector_is_as_before")
    expect(page.get_by_text(NOT_MADE).first).to_be_visible()
    expect(page.get_by_text("Passed", exact=True)).to_have_count(0)


def test_checks_are_executed_without_making_the_asset(look, page, ui, settings):
    before, made = newest_run(page, ui), settings.concepts_path.stat().st_ino
    look("assets/concepts?view=checks", "Execute all")

    page.get_by_role("button", name="Execute all").click()

    assert wait_for_new_run(page, ui, before)["status"] == "SUCCESS"
    assert settings.concepts_path.stat().st_ino == made


def test_the_launchpad_offers_the_options_and_refuses_wrong_values(look, page):
    look("locations/lvm_pipeline/jobs/train_architecture/playground", "selection_metric")

    page.locator(".CodeMirror").first.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text("ops:\n  trained_model:\n    config:\n      epochs: zero\n")

    expect(page.get_by_text("Invalid scalar at path root:ops:trained_model:config:epochs").first).to_be_visible()
    expect(page.get_by_role("button", name="Launch Run")).to_be_disabled()


def test_an_architecture_is_trained_and_scored_by_clicking(page, look, ui, settings):
    assert materialise(page, ui, "trained_model", partition="gru") == "SUCCESS"
    look("assets/trained_model?view=partitions&partition=gru", "mlflow_run", "preset", "smoke")
    link = page.get_by_role("link", name=re.compile(rf"127.0.0.1:{settings.mlflow_port}")).first
    assert page.request.get(link.get_attribute("href")).ok

    assert materialise(page, ui, "evaluation_report", partition="gru") == "SUCCESS"
    look("assets/evaluation_report?view=partitions&partition=gru", "verdict", VERDICT, "gain_mean", "predictors")
    link = page.get_by_role("link", name=re.compile(rf"127.0.0.1:{settings.reports_port}")).first
    answer = page.request.get(link.get_attribute("href"))
    assert "Model and baselines" in answer.text()


def test_the_leaderboard_shows_models_beside_baselines(look, page, ui):
    assert materialise(page, ui, "leaderboard") == "SUCCESS"
    look("assets/leaderboard", "verdict", re.compile("1 of 1 model|0 of 1 model"), "models_beside_baselines")

    page.get_by_role("button", name="[Show Markdown]").or_(page.get_by_text("[Show Markdown]")).first.click()
    expect(page.get_by_role("img", name="Models beside baselines").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_served_pages_fit_the_screen(browser_window, ui, settings, request, scheme, width):
    address = f"http://127.0.0.1:{settings.reports_port}"
    folder = request.config.getoption("--screenshots")
    window = browser_window.browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, errors, asked = window.new_page(), [], set()
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda each: asked.add(each.url))
    for path in ("", "reports/leaderboard.html", "reports/gru/report.html"):
        page.goto(f"{address}/{path}")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, path
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128) == (scheme == "dark")
        if folder is not None:
            name = re.sub(r"\W+", "-", path) or "index"
            page.screenshot(path=folder / f"served-{name}-{scheme}-{width}.png", full_page=True)
    page.goto(address)
    page.get_by_role("link", name="Leaderboard").click()
    page.get_by_role("link", name=re.compile("^gru")).first.click()
    expect(page.get_by_text("Model and baselines").first).to_be_visible()
    window.close()
    assert errors == []
    assert {url for url in asked if not url.startswith((address, "data:"))} == set()


def test_schedules_and_sensors_are_shown_with_their_switch(page, look):
    look("automation", "retraining", "alerts")
    expect(page.get_by_role("switch").or_(page.get_by_role("checkbox")).first).to_be_attached()
