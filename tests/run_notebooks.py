"""Run the notebooks at full settings and store their outputs in them: `make notebooks`.

Not stored: outputs of cells tagged "live" (progress, widgets), which mean nothing without a kernel, widget state, and
times of execution.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def lighter(picture: str) -> str:
    """A PNG as base64; one above 75 kB with 256 colours: dithered where that saves a third."""
    if len(picture) < 100_000:
        return picture
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    for dither in (Image.Dither.FLOYDSTEINBERG, Image.Dither.NONE):
        image.quantize(palette=palette, dither=dither).save(file := io.BytesIO(), "PNG", optimize=True)
        found = base64.b64encode(file.getvalue()).decode()
        if len(found) < 0.67 * len(picture):
            break
    return min(picture, found, key=len)


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
            for output in cell.outputs:
                if picture := output.get("data", {}).get("image/png"):
                    output.data["image/png"] = lighter(picture)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")):
        print(path.name)
        run(path)
