"""A tracking server whose URI has a user and a password: they are sent to it, and shown nowhere."""

import base64
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lvm_pipeline.adapters import alerts, mlflow_registry, mlflow_store
from lvm_pipeline.adapters.loopback import LOOPBACK
from lvm_pipeline.errors import LvmError, ServiceError
from lvm_pipeline.settings import Settings

SECRET = "s3cret"
LOGIN = f"Basic {base64.b64encode(f'ann:{SECRET}'.encode()).decode()}"


@contextmanager
def server_with_login():
    """Yield the address of a server that has no experiments and answers only with user and password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.headers["Authorization"] == LOGIN else 401)
            self.end_headers()
            self.wfile.write(b"{}" if self.headers["Authorization"] == LOGIN else b"Who are you?")

        def do_POST(self):
            self.do_GET()

        def log_message(self, format, *args): ...

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"{LOOPBACK}:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_user_and_password_are_sent(tmp_path):
    with server_with_login() as address:
        settings = Settings(home=tmp_path, mlflow_tracking_uri=f"http://ann:{SECRET}@{address}")

        assert mlflow_store.count_experiments(settings) == 0

        wrong = settings.model_copy(update={"mlflow_tracking_uri": f"http://ann:{SECRET}-of-old@{address}"})
        with pytest.raises(LvmError, match="401") as caught:
            mlflow_store.count_experiments(wrong)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("host", ["mlflow.invalid", "127.0.0.1:9"])
def test_a_server_that_is_away_is_named_without_the_password(tmp_path, host):
    settings = Settings(home=tmp_path, mlflow_tracking_uri=f"http://ann:{SECRET}@{host}")

    with pytest.raises(LvmError, match=f"No MLflow server answers at http://{host} ") as caught:
        mlflow_store.open_client(settings)

    assert SECRET not in str(caught.value)


def test_an_error_of_mlflow_is_given_without_the_password():
    from mlflow.exceptions import MlflowException

    error = MlflowException(f"API request to http://ann:{SECRET}@host/api failed")
    with pytest.raises(LvmError, match="API request to http://host/api failed"), mlflow_store.store_errors():
        raise error


@pytest.mark.parametrize("uri", ["file:/tmp/x", "./mlruns", "databricks", "mysql://host/mlflow"])
def test_a_store_of_another_kind_is_refused(tmp_path, uri):
    with pytest.raises(LvmError, match=r"must be the http\(s\) address of a server, or a postgresql:// or"):
        mlflow_store.open_client(Settings(home=tmp_path, mlflow_tracking_uri=uri))


def test_a_database_that_does_not_answer_is_reported_at_once(tmp_path, capfd):
    settings = Settings(home=tmp_path, mlflow_tracking_uri="postgresql+psycopg2://me:hush@127.0.0.1:9/mlflow")
    mlflow_store.open_client(Settings(home=tmp_path, mlflow_tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"))  # imports
    began = time.monotonic()

    with pytest.raises(ServiceError, match="for the built-in store, run `lvm down` and try again"):
        mlflow_store.open_client(settings)

    assert time.monotonic() - began < 10
    assert "Retrying" not in capfd.readouterr().err


def test_links_have_no_password(tmp_path):
    settings = Settings(home=tmp_path, mlflow_tracking_uri=f"https://ann:{SECRET}@mlflow.example.org/")

    assert mlflow_store.run_url(settings, "1", "abc") == "https://mlflow.example.org/#/experiments/1/runs/abc"
    assert mlflow_registry.version_url(settings, "2").startswith("https://mlflow.example.org/#/models/")


def test_alerts_hide_the_password(tmp_path):
    settings = Settings(home=tmp_path, mlflow_tracking_uri="https://ann:pa%24s@mlflow.example.org/lvm")

    assert alerts.secrets_of(settings) == {"pa%24s", "pa$s"}
