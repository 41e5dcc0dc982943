import pytest

from lvm_pipeline.training import provenance
from lvm_pipeline_tests.evaluation.products import make_products
from lvm_pipeline_tests.timed_briefly import timed_briefly  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def products(tmp_path_factory):
    """Concepts that a model can learn, and their sequences."""
    return make_products(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="session")
def model_dir(products):
    """A model that has learnt a little."""
    return products.train("windows", epochs=3)


@pytest.fixture(scope="session")
def articles_model_dir(products):
    """A model that reads articles."""
    return products.train("articles", mode="articles", architecture="gru")


@pytest.fixture(scope="session")
def report(products, model_dir):
    """Its report on validation."""
    return products.evaluate(model_dir)


@pytest.fixture(scope="session")
def articles_report(products, articles_model_dir):
    """The report of a model that reads articles."""
    return products.evaluate(articles_model_dir)


@pytest.fixture
def edit(monkeypatch):
    """Change the code of a module, as an upgrade of the project does."""
    read = provenance._code_of

    def edited(name):
        changed = b"changed = True"
        monkeypatch.setattr(provenance, "_code_of", lambda module: changed if module == name else read(module))
        provenance.code_version.cache_clear()

    yield edited
    provenance.code_version.cache_clear()
