import contextlib
import gc
import subprocess
import sys

from lvm_pipeline.imports import lasting_imports

ENDS_SOON = """
import gc
from lvm_pipeline.imports import end_without_search

class Searched:
    def __init__(self):
        self.myself = self
    def __del__(self):
        print("searched")

{}
Searched()
print("end")
"""


def printed_by(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_what_a_block_imports_is_never_searched_and_garbage_is_collected_again_after_it():
    before = gc.get_freeze_count()
    sys.modules.pop("this", None)
    try:
        with lasting_imports(), contextlib.redirect_stdout(None):
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
            import this  # noqa: F401 - a module that nothing else imports

        assert gc.isenabled()
        assert gc.get_freeze_count() - before >= len(made)
    finally:
        gc.unfreeze()


def test_a_block_that_imports_nothing_new_keeps_no_garbage():
    before = gc.get_freeze_count()
    with lasting_imports():
        import contextlib  # noqa: F401

    assert gc.get_freeze_count() == before


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with lasting_imports():
            pass

        assert not gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()


def test_a_process_ends_without_a_last_search():
    assert printed_by(ENDS_SOON.format("")) == ["end", "searched"]
    assert printed_by(ENDS_SOON.format("end_without_search()")) == ["end"]
