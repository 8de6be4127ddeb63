"""Progress: the only progress display, lines in a terminal or one display in a notebook that is emptied at the end."""

import sys
import time


def format_seconds(seconds: float) -> str:
    """A duration in readable form: "8 s", "2 min 05 s", "1 h 20 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Shows how far a long task is; use it in a `with` block.

    In a terminal, lines go to standard error: `log` adds one, `update` overwrites the last (a pipe or a file gets such
    a temporary line only every 15 seconds). In a notebook, all lines are in one display, which is emptied at the end,
    so that none of them is saved in the notebook. `say` is for a sentence that must stay.

    Args:
        enabled: If False, only the sentences given to `say` are shown.
    """

    def __init__(self, enabled: bool = True):
        self._enabled, ipython = enabled, sys.modules.get("IPython")
        self._notebook = ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None
        self._handle = None
        self._lines: list[str] = []
        self._passing = False  # the last line in the terminal is to be overwritten
        # In a pipe or file, the first temporary line appears only after a while.
        self._last_update = float("-inf") if self._notebook or sys.stderr.isatty() else time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self._handle is not None:
            self._handle.update({}, raw=True)
        self._write("")

    def log(self, line: str) -> None:
        """Add a line that stays until the task is done."""
        if not self._enabled:
            return
        self._lines.append(line)
        if self._notebook:
            self._show(self._lines)
        else:
            self._write(line + "\n")

    def update(self, line: str) -> None:
        """Show a line that the next one replaces; cheap enough to call for every batch."""
        now = time.monotonic()
        terminal = self._notebook or sys.stderr.isatty()
        if not self._enabled or now - self._last_update < (0.25 if terminal else 15):
            return
        self._last_update = now
        if self._notebook:
            self._show([*self._lines, line])
        elif terminal:
            self._write(f"\r{line}\x1b[K", passing=True)
        else:
            self._write(line + "\n")

    def say(self, sentence: str) -> None:
        """Show a sentence that stays, even in a notebook and when progress is disabled."""
        if self._notebook:
            from IPython.display import display

            display({"text/plain": sentence}, raw=True)
        else:
            self._write(sentence + "\n")

    def _show(self, lines: list[str]) -> None:
        from IPython.display import display

        bundle = {"text/plain": "\n".join(lines)}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _write(self, text: str, *, passing: bool = False) -> None:
        over = "\r\x1b[K" if self._passing and not passing else ""
        self._passing = passing
        print(over + text, end="", file=sys.stderr, flush=True)
