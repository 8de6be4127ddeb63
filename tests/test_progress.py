import sys
from types import SimpleNamespace

import pytest

from imgclassify.progress import Progress, format_seconds


@pytest.fixture
def clock(monkeypatch):
    """The time that progress sees; set `now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("imgclassify.progress.time.monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def notebook(monkeypatch):
    """A Jupyter kernel whose front end keeps what it was asked to show: (text, None or the display it is in)."""
    shown = []

    class Handle:
        def __init__(self, place):
            self.place = place

        def update(self, bundle, *, raw):
            assert raw
            shown[self.place] = bundle.get("text/plain")

    def display(bundle, *, raw, display_id=None):
        assert raw
        shown.append(bundle["text/plain"])
        return Handle(len(shown) - 1) if display_id else None

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel="a kernel")))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return shown


def test_outside_a_notebook_progress_goes_to_standard_error_line_by_line(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with Progress() as progress:
        progress.log("first")
        progress.log("second")
    assert capsys.readouterr() == ("", "first\nsecond\n")


def test_disabled_progress_still_says_what_must_be_said(capsys):
    with Progress(enabled=False) as progress:
        progress.log("a line")
        progress.update("a passing line")
        progress.say("The sentence.")
    assert capsys.readouterr() == ("", "The sentence.\n")


def test_a_pipe_gets_a_passing_line_every_15_seconds(capsys, clock):
    with Progress() as progress:
        for _ in range(40):
            clock.now += 1
            progress.update(f"after {clock.now - 1000:.0f} s")
    assert capsys.readouterr().err == "after 15 s\nafter 30 s\n"


def test_in_a_terminal_a_passing_line_is_overwritten_and_gone_at_the_end(capsys, clock, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress() as progress:
        progress.update("10 %")
        clock.now += 0.1
        progress.update("11 %")  # too soon after the last
        clock.now += 1
        progress.update("20 %")
        progress.log("a line")
        clock.now += 1
        progress.update("30 %")
    assert capsys.readouterr().err == "\r10 %\x1b[K\r20 %\x1b[K\r\x1b[Ka line\n\r30 %\x1b[K\r\x1b[K"


def test_in_a_notebook_all_lines_are_in_one_display_that_is_emptied_at_the_end(notebook, clock, capsys):
    with Progress() as progress:
        progress.log("first")
        clock.now += 1
        progress.update("10 %")
        assert notebook == ["first\n10 %"]
        progress.log("second")
        assert notebook == ["first\nsecond"]
        progress.say("The sentence.")
    assert notebook == [None, "The sentence."]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (59.7, "1 min 00 s"), (125, "2 min 05 s"), (4800, "1 h 20 min")]
)
def test_durations_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text
