"""The examples in docstrings give what they say. Those of docs/ are in test_docs.py."""

import doctest
import importlib
import pathlib

import pytest

REPO = pathlib.Path(__file__).parents[1]
MODULES = [
    "tf_ldiaf." + ".".join(file.relative_to(REPO / "tf_ldiaf").with_suffix("").parts)
    for file in sorted((REPO / "tf_ldiaf").rglob("*.py"))
    if "    >>> " in file.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
