"""What a rater does in the browser: open the review queue of a real MLflow server and answer an item by clicking.

`--screenshots FOLDER` keeps a picture of the pages.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from lvm_pipeline.adapters import mlflow_review, mlflow_store
from lvm_pipeline.adapters.loopback import LOOPBACK, free_port, is_free
from lvm_pipeline.evaluation.preference_study import FIRST, QUESTION
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.browser.test_dagster_ui import BROWSER_OPTIONS, PATIENCE_MS
from lvm_pipeline_tests.conftest import chromium_path

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]

ITEM = {"passage": ["The river rises in the north."], "A": "It reaches the sea.", "B": "sea the reach river"}


@pytest.fixture
def settings(tmp_path):
    """A home with its own MLflow store."""
    home = tmp_path / "lvm_home"
    home.mkdir()
    port = free_port()
    return Settings(
        home=home, mlflow_tracking_uri=f"sqlite:///{home}/mlflow.db", mlflow_ui_url=f"http://{LOOPBACK}:{port}"
    )


@pytest.fixture
def server(settings):
    """A real MLflow server on that store; its address."""
    mlflow_store.open_client(settings)
    port = settings.mlflow_ui_url.rpartition(":")[2]
    command = [Path(sys.prefix) / "bin" / "mlflow", "server", "--host", LOOPBACK, "--port", port, "--workers", "1"]
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]]),
    }
    with (settings.home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=settings.home, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + 300
    while is_free(int(port)) and time.monotonic() < deadline:
        time.sleep(0.5)
    yield settings.mlflow_ui_url
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_rater_answers_an_item_on_the_review_page(settings, server, request):
    experiment_id = mlflow_review.create_experiment(settings, "preference test")
    queue = mlflow_review.create_queue(settings, "ann", [ITEM], experiment_id=experiment_id, order=[0])
    assert mlflow_review.answers(settings, queue.queue_id) == {}
    pictures = request.config.getoption("--screenshots")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=BROWSER_OPTIONS)
        page = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        try:
            page.goto(queue.url, wait_until="domcontentloaded")
            page.get_by_text("ann", exact=True).first.click()
            page.get_by_role("button", name="Start review").or_(page.get_by_text("Two continuations")).first.click()
            expect(page.get_by_text(QUESTION).first).to_be_visible()
            page.get_by_role("combobox").or_(page.get_by_text(FIRST, exact=True)).first.click()
            page.get_by_text(FIRST, exact=True).last.click()
            page.get_by_role("button", name="Complete").or_(page.get_by_role("button", name="Submit")).first.click()
            page.wait_for_timeout(3000)
        finally:
            if pictures is not None:
                page.screenshot(path=pictures / "review-end.png", full_page=True)
                (pictures / "review-end.txt").write_text(page.inner_text("body"))
            browser.close()

    (answer,) = mlflow_review.answers(settings, queue.queue_id).values()
    assert answer.value == FIRST
    assert answer.is_human
