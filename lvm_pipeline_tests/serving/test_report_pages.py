"""Promises of the server of reports: every page is reached, as it is now, and nothing but pages is given away."""

import http.client
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from lvm_pipeline.files import link_dir, write_json, write_text
from lvm_pipeline.serving.report_pages import make_app
from lvm_pipeline.settings import Settings
from lvm_pipeline_tests.serving.homes import call, running

ROW = {"kind": "model", "trial_id": "gru-s0", "cosine": 0.61, "gain": {"mean": 0.0125}, "best_baseline": "ridge"}


@pytest.fixture
def settings(tmp_path):
    """A home with a leaderboard, a study and two trials, one of them ranked."""
    settings = Settings(home=tmp_path / "a home")
    for name in ("gru-s0", "lstm-s0"):
        write_text(settings.trials_dir / name / "report.html", f"<p>report of {name}</p>")
    write_text(settings.trials_dir / "gru-s0" / "model" / "model.safetensors", "weights")
    link_dir(settings.reports_dir / "gru", settings.trials_dir / "gru-s0")
    write_text(settings.reports_dir / "leaderboard.html", "<p>first board</p>")
    write_json(
        settings.reports_dir / "leaderboard.json", {"rows": [{"kind": "baseline"}, {**ROW, "is_champion": True}]}
    )
    write_json(settings.reports_dir / "champion.json", {"decision": {"reason": "gru-s0 is promoted"}})
    write_text(settings.reports_dir / "study.html", "<p>study</p>")
    write_text(settings.reports_dir / "verification.md", "# Data\n\n| a | b |\n| --- | --- |\n| 1 | <b> |\n")
    return settings


@pytest.fixture
def address(settings):
    with running(make_app(settings)) as url:
        yield url


def status_of(address, path, **headers):
    """Status of a path that is sent as it is, which a URL would not be."""
    with closing(http.client.HTTPConnection(address.removeprefix("http://"))) as connection:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            return answer.status


def test_pages_are_served_as_they_are_now(settings, address):
    assert call(f"{address}/reports/gru/report.html")[2] == "<p>report of gru-s0</p>"
    assert call(f"{address}/reports/study.html")[2] == "<p>study</p>"
    status, headers, text = call(f"{address}/reports/leaderboard.html")
    assert (status, text, headers["Cache-Control"]) == (200, "<p>first board</p>", "no-cache")
    write_text(settings.reports_dir / "leaderboard.html", "<p>second board</p>")
    assert call(f"{address}/reports/leaderboard.html")[2] == "<p>second board</p>"


def test_a_markdown_report_is_shown_as_a_page_with_tables(settings, address):
    status, headers, page = call(f"{address}/reports/verification.md")

    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-cache"
    assert "<title>Verification of the data</title>" in page
    assert "<h1>Data</h1>" in page
    assert "<td>&lt;b&gt;</td>" in page  # words of a concept are no HTML
    assert status_of(address, "/reports/nothing.md") == 404


def test_links_of_the_pipeline_lead_to_the_served_pages(settings, address):
    for path in (settings.trials_dir / "lstm-s0" / "report.html", settings.reports_dir / "gru" / "report.html"):
        link = urlsplit(settings.page_url(path))
        assert link.netloc == f"127.0.0.1:{settings.reports_port}"
        assert call(f"{address}{link.path}")[0] == 200
    elsewhere = settings.model_copy(update={"reports_url": "https://reports.example.org/"})
    assert elsewhere.page_url(settings.reports_dir / "a b.html") == "https://reports.example.org/reports/a%20b.html"


def test_the_index_leads_to_every_report(address):
    page = call(f"{address}/")[2]

    assert "gru-s0 is promoted" in page
    for link in ("reports/leaderboard.html", "reports/study.html", "reports/verification.md"):
        assert f'href="{link}"' in page
    assert page.index("trials/gru-s0/report.html") < page.index("trials/lstm-s0/report.html")
    assert "+0.0125 over ridge" in page
    assert "drift.md" not in page


def test_an_empty_home_says_what_to_do(tmp_path):
    with running(make_app(Settings(home=tmp_path / "empty"))) as url:
        assert "There is no report yet" in call(f"{url}/")[2]
        assert call(f"{url}/reports/leaderboard.html")[0] == 404


@pytest.mark.parametrize(
    "path",
    ["trials/gru-s0/model/model.safetensors", "trials/../mlflow/secret.json", "trials/%2e%2e/mlflow/secret.json"],
)
def test_nothing_but_pages_of_reports_and_trials_is_served(settings, address, path):
    write_json(settings.mlflow_dir / "secret.json", "secret")

    assert status_of(address, f"/{path}") == 404


def test_other_host_names_are_refused(address):
    assert status_of(address, "/", host="evil.example.org") == 400
    assert status_of(address, "/", host="localhost:3001") == 200
