"""The examples in docstrings and in docs/ give what they say."""

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


@pytest.mark.parametrize("page", ["own_networks.md", "explorer.md"])
def test_examples_of_a_page(page):
    failed, tried = doctest.testfile(str(REPO / "docs" / page), module_relative=False)
    assert tried > 10
    assert not failed
