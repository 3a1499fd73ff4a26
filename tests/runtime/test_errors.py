"""An error is one line of three parts, in this process and from another."""

import pickle

from abn.runtime.errors import DataError


def test_an_error_from_another_process_is_the_same_line() -> None:
    error = DataError("no such\nimage", "a.png", "check the path")
    again = pickle.loads(pickle.dumps(error))
    assert again.line() == error.line() == "error[DATA] no such image; a.png; check the path"
    assert again.what == error.what
