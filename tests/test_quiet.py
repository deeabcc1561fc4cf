"""Reading without warnings, in several threads at once."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scans import write_scan

from cfgen.data import UnreadableImage, dicom
from cfgen.data.decode import decode
from cfgen.data.quiet import quiet


def test_the_filters_are_as_before_however_two_threads_overlap():
    before = list(warnings.filters)
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first():
        with quiet():
            first_in.set()
            assert second_in.wait(5)
        first_out.set()

    def second():
        assert first_in.wait(5)
        with quiet():
            second_in.set()
            assert first_out.wait(5)
            warnings.warn("still quiet", stacklevel=1)  # an error with the filters of the tests

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result(10)
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="^heard again$"):
        warnings.warn("heard again", stacklevel=1)


def test_quiet_ends_with_an_exception_and_inside_of_itself():
    before = list(warnings.filters)
    with pytest.raises(KeyError), quiet(), quiet():
        raise KeyError
    assert list(warnings.filters) == before


def test_files_of_both_kinds_are_read_in_threads(tmp_path):
    before = list(warnings.filters)
    paths = [write_scan(tmp_path / str(k), np.full((4, 4), k, np.uint8)) for k in range(8)]

    def read(k):
        with pytest.raises(UnreadableImage, match="^not an image$"):
            decode(b"no image")
        return dicom.read(paths[k % 8], 0).values[0, 0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(64))) == [k % 8 for k in range(64)]
    assert list(warnings.filters) == before
