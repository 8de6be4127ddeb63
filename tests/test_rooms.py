"""The structure of the package: imports go down or sideways, modules are small and say what they hold."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from imgclassify.training.train import train_model

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "imgclassify"
# From top to bottom, one level per line. Modules on a level may import one another, but not in a circle.
LEVELS = (
    {"cli"},
    {"commands", "classifying"},
    {"widgets", "serving"},
    {"visualization"},
    {"training"},
    {"evaluation"},
    {"classifier"},
    {"runs"},
    {"recipes"},
    {"prediction"},
    {"models"},
    {"data"},
    {"display", "progress", "backend", "atomic"},
    {"settings"},
)
LEVEL = {room: number for number, level in enumerate(LEVELS) for room in level}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """`data.batches` for data/batches.py, `data` for data/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = {name.removeprefix("imgclassify.") for name in found if name.startswith("imgclassify.")}
    return {name for name in ours if name in NAMES} - {name_of(path)}


IMPORTS = {name_of(path): imports_of(path) for path in MODULES if name_of(path)}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_is_on_a_level():
    assert {room(module) for module in IMPORTS} == set(LEVEL)


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_imports_go_down_or_sideways(module):
    upward = [other for other in IMPORTS[module] if LEVEL[room(other)] < LEVEL[room(module)]]
    assert upward == []


def test_no_imports_go_in_a_circle():
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in finished:
            for other in IMPORTS[module]:
                visit(other, (*path, module))
            finished.add(module)

    for module in IMPORTS:
        visit(module, ())
    assert finished == set(IMPORTS)


# The aim is 8,000. Raised six times, for what a user sees: from 8,380 for teaching one's own classes, the model for
# photos, the learning-rate finder and other backbones; from 9,375, after a hundred lines had gone, for the evaluation
# by class, the comparison of two models and their figures; from 9,585 for the answer "none of its classes"; from 10,110
# for explanations, the measurement of their faithfulness, robustness, doubtful labels, reports and model cards; from
# 11,900 for what leaves the notebook: export, quantisation, page, service, batches, a watch over the log; from
# 14,700 for training by several workers, and its supervision.
MOST_LINES = 15300


def test_no_module_is_longer_than_400_lines_and_the_package_no_longer_than_it_was():
    lines = {name_of(path): path.read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    assert sum(lines.values()) < MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_first_line_says_what_a_module_holds(path):
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    assert re.fullmatch(r"[A-Z`].{15,}[.:]", first), first


FUNCTIONS = [
    pytest.param(node, id=f"{name_of(path)}:{node.name}")
    for path in MODULES
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef)
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_takes_more_than_four_positional_arguments(function):
    arguments = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    if function.name not in COMPILED:
        assert len([name for name in arguments if name not in ("self", "cls")]) <= 4


COMPILED = ("_some_steps",)  # a signature of TensorFlow's, which has no keywords


def test_train_model_is_a_short_story():
    tree = ast.parse(inspect.getsource(train_model)).body[0]
    docstring, *body = tree.body
    assert isinstance(docstring, ast.Expr)
    assert body[-1].end_lineno - body[0].lineno + 1 < 40


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_attributes_are_born_in_init_only(path):
    for class_ in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(class_, ast.ClassDef):
            continue
        born = {name for method in class_.body for name in assigned(method, "__init__")}
        layers_build = {name for method in class_.body for name in assigned(method, "build")}  # as Keras has it
        later = {
            name
            for method in class_.body
            if isinstance(method, ast.FunctionDef) and method.name not in ("__init__", "build")
            for name in assigned(method, method.name)
        }
        fields = {node.target.id for node in class_.body if isinstance(node, ast.AnnAssign)}
        assert later <= born | layers_build | fields, (class_.name, later - born)


def assigned(method: ast.stmt, name: str) -> set[str]:
    """Attributes of self that a method of this name assigns."""
    if not isinstance(method, ast.FunctionDef) or method.name != name:
        return set()
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
