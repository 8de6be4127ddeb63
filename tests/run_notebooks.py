"""Run the notebooks at full settings and store their outputs in them: `make notebooks`.

Not stored: outputs of cells tagged "live" (progress, widgets), which mean nothing without a kernel, widget state, and
times of execution.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    for cell in notebook.cells:
        if "live" in cell.metadata.get("tags", []):
            cell.outputs = []
        if cell.cell_type == "code":  # without the displays that progress has emptied
            cell.outputs = [output for output in cell.outputs if output.get("data") or output.get("text")]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(path.name)
        run(path)
