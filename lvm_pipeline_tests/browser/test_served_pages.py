"""The pages of the model server in a real browser: they work, and fetch nothing from elsewhere."""

import pytest
from playwright.sync_api import expect, sync_playwright

from lvm_pipeline.lineage.serving import serving_app
from lvm_pipeline_tests.browser.test_dagster_ui import BROWSER_OPTIONS, PATIENCE_MS
from lvm_pipeline_tests.conftest import chromium_path
from lvm_pipeline_tests.serving.homes import make_home, running, texts_of, train_trial

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def server(tmp_path):
    settings = make_home(tmp_path / "home")
    train_trial(settings, architecture="gru", mode="articles")
    with running(serving_app(settings, trial="gru")) as url:
        yield url


def test_requests_and_articles_are_tried_by_clicking_without_errors_or_foreign_requests(server, request):
    asked, errors = [], []
    pictures = request.config.getoption("--screenshots")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=BROWSER_OPTIONS)
        page = browser.new_context(viewport={"width": 1200, "height": 1400}).new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.on("request", lambda each: asked.append(each.url))
        page.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
        page.on("pageerror", lambda each: errors.append(str(each)))
        try:
            page.goto(f"{server}/docs")
            page.get_by_role("button", name="Send").click()
            expect(page.locator("#status")).to_contain_text("200")
            expect(page.locator("#answer")).to_contain_text("concept_text")
            if pictures:
                page.screenshot(path=str(pictures / "served_docs.png"), full_page=True)
            page.goto(f"{server}/try")
            page.locator("#article").fill("\n\n".join(texts_of([6])))
            page.get_by_role("button", name="Predict").click()
            expect(page.locator(".verdict")).to_contain_text("is closest on average")
            if pictures:
                page.screenshot(path=str(pictures / "served_try.png"), full_page=True)
        finally:
            browser.close()

    foreign = [url for url in asked if not url.startswith((server, "data:"))]
    assert (foreign, [each for each in errors if "favicon" not in each]) == ([], [])
