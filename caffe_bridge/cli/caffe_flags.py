"""The flags of the original ``caffe`` tool, in the one-dash form that scripts use.

``caffe train -solver s.prototxt -gpu 0 -logtostderr=1`` becomes ``train --solver s.prototxt
--gpu 0``. Caffe's tool takes flags before and after the verb. Flags of its logging library have no
meaning here and are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

VERBS = frozenset({"train", "test", "time", "device_query"})
FLAGS = frozenset(
    {"solver", "weights", "snapshot", "gpu", "iterations", "model", "phase", "level", "stage",
     "sigint_effect", "sighup_effect"}
)  # fmt: skip
#: glog's flags: those that stand alone, and those with a value.
SWITCHES = frozenset({"logtostderr", "alsologtostderr", "colorlogtostderr"})
SETTINGS = frozenset({"log_dir", "minloglevel", "stderrthreshold", "v"})
_FLAG = re.compile(r"--?([a-z_]+)(=.*)?", re.DOTALL)


def _split(tokens: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Tokens as (flag name or "", tokens that belong together)."""
    parts: list[tuple[str, list[str]]] = []
    waiting = False
    for token in tokens:
        found = None if waiting else _FLAG.fullmatch(token)
        name = found[1] if found else ""
        if waiting:
            parts[-1][1].append(token)
            waiting = False
        elif name in FLAGS or name in SETTINGS:
            parts.append((name, [token]))
            waiting = found is not None and found[2] is None
        else:
            parts.append((name if name in SWITCHES else "", [token]))
    return parts


def normalise(arguments: Sequence[str]) -> list[str]:
    """Arguments in this tool's form; others than the Caffe tool's verbs are left alone."""
    parts = _split(arguments)
    place = next((i for i, (name, tokens) in enumerate(parts)
                  if not name and not tokens[0].startswith("-")), None)  # fmt: skip
    if place is None or parts[place][1][0] not in VERBS:
        return list(arguments)
    result = [t for name, tokens in parts[:place] if not name for t in tokens]
    result += parts[place][1]
    for name, tokens in [*(p for p in parts[:place] if p[0]), *parts[place + 1 :]]:
        if name in SWITCHES or name in SETTINGS:
            continue
        head = f"-{tokens[0]}" if name and not tokens[0].startswith("--") else tokens[0]
        result += [head, *tokens[1:]]
    return result
