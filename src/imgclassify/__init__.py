"""Image classification on CIFAR-10 and your own pictures; see the notebooks.

Names are imported on first use, so that `import imgclassify` loads neither TensorFlow nor numpy. Where they are is read
from `__init__.pyi`, which tells it to editors and type checkers too.
"""

import ast
import importlib
from pathlib import Path

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_IMPORTS = [node for node in _STUB.body if isinstance(node, ast.ImportFrom)]
_MODULE_OF = {alias.name: str(node.module) for node in _IMPORTS for alias in node.names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'imgclassify' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
