from __future__ import annotations

import io

from rich.console import Console

from caffe_bridge.cli.progress import training_bar


def shown(terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80)
    with training_bar(console) as (bar, progress):
        progress("net a", 1, 4, 2.5)
        bar.refresh()
        progress("net a", 4, 4, 0.5)
        progress("net b", 2, 4, 1.25)
        bar.refresh()
        assert [task.visible for task in bar.tasks] == [False, True]
    return stream.getvalue()


def test_title_iterations_and_loss() -> None:
    text = shown(terminal=True)
    assert "net a" in text and "1/4 loss 2.5000" in text
    assert "net b" in text and "2/4 loss 1.2500" in text


def test_nothing_is_drawn_into_files() -> None:
    assert shown(terminal=False).strip() == ""
