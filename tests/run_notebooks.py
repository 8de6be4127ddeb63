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
    """A PNG as base64; one above 100 kB, as of photos, with 256 colours, dithered, if that is smaller."""
    if len(picture) < 135_000:
        return picture
    image, file = Image.open(io.BytesIO(base64.b64decode(picture))), io.BytesIO()
    image = image.convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, "PNG", optimize=True)
    return min(picture, base64.b64encode(file.getvalue()).decode(), key=len)


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
