"""The examples in docstrings hold, and the public functions say what they give."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import imgclassify

PACKAGE = Path(imgclassify.__file__).parent
EXAMPLES = 30  # in the package when this was written; more may follow


def module_name(path: Path) -> str:
    """`imgclassify.data.batches` for data/batches.py, `imgclassify.data` for data/__init__.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(map(module_name, PACKAGE.rglob("*.py")))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0  # what differs is printed


def test_no_example_was_lost():
    find = doctest.DocTestFinder().find
    found = [test for name in MODULES for test in find(importlib.import_module(name))]
    assert sum(len(test.examples) for test in found) >= EXAMPLES


def test_every_public_function_says_what_it_gives():
    public = {name: getattr(imgclassify, name) for name in imgclassify.__all__}
    functions = {name: inspect.getdoc(each) or "" for name, each in public.items() if inspect.isfunction(each)}
    silent = [name for name, text in functions.items() if not says_what_it_gives(text)]
    assert len(functions) > 10
    assert silent == []


def says_what_it_gives(docstring: str) -> bool:
    """Whether a docstring is one line, or says in its first line or under "Returns:" what is returned."""
    first, *rest = docstring.splitlines() or [""]
    return bool(first) and (not rest or "returns" in first or "Returns:" in rest)


def test_editors_are_told_of_the_same_names_as_are_imported_on_first_use():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    told = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(told) == imgclassify.__all__
    for name, module in told.items():
        assert getattr(importlib.import_module(module), name) is getattr(imgclassify, name)
