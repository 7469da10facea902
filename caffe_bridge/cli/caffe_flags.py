"""The flags of Caffe's own tools, in the forms that scripts use.

``caffe train -solver s.prototxt -gpu 0 -logtostderr=1`` becomes ``train --solver s.prototxt
--gpu 0``, ``convert_imageset -gray --resize_height=256 --noshuffle root/ list db`` becomes
``convert-imageset --gray --resize-height=256 root/ list db``. Those tools take flags with one dash
or two, before and after everything else. Flags of their logging library have no meaning here and
are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

#: The tool's verbs, each with the flags that do something there; the tool takes all at each.
VERBS: Mapping[str, frozenset[str]] = {
    "train": frozenset(
        {"solver", "weights", "snapshot", "gpu", "level", "stage", "sigint_effect", "sighup_effect"}
    ),
    "test": frozenset({"model", "weights", "gpu", "iterations", "level", "stage"}),
    "time": frozenset({"model", "weights", "gpu", "iterations", "phase", "level", "stage"}),
    "device_query": frozenset({"gpu"}),
}
FLAGS = frozenset().union(*VERBS.values())
#: glog's flags: those that stand alone, and those with a value.
SWITCHES = frozenset({"logtostderr", "alsologtostderr", "colorlogtostderr"})
SETTINGS = frozenset({"log_dir", "minloglevel", "stderrthreshold", "v"})
#: Names of the other tools' programs, and the verbs that replace them.
TOOLS = {
    "convert_imageset": "convert-imageset", "compute_image_mean": "compute-image-mean",
    "extract_features": "extract-features", "upgrade_net_proto_text": "upgrade-net",
    "upgrade_net_proto_binary": "upgrade-net", "upgrade_solver_proto_text": "upgrade-solver",
    "draw_net": "draw", "parse_log": "parse-log",
}  # fmt: skip
#: Flags of those tools by verb: whether each takes a value.
TOOL_FLAGS: Mapping[str, Mapping[str, bool]] = {
    "convert-imageset": {
        "gray": False, "shuffle": False, "check_size": False, "encoded": False, "backend": True,
        "resize_width": True, "resize_height": True, "encode_type": True,
    },
    "compute-image-mean": {"backend": True},
    "extract-features": {}, "upgrade-net": {}, "upgrade-solver": {},
    "draw": {"rankdir": True, "phase": True, "display_lrm": False},
    "parse-log": {"delimiter": True},
}  # fmt: skip
_FLAG = re.compile(r"--?([a-z_]+)(=.*)?", re.DOTALL)
#: What the tools' flag library takes as true or false.
_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")


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


def normalise(
    arguments: Sequence[str], tell: Callable[[str], object] = lambda _text: None
) -> list[str]:
    """Arguments in this tool's form; those of verbs that Caffe does not have are left alone.

    Args:
        arguments: the command line.
        tell: receives a sentence for each flag of the tool that the verb makes no use of.
    """
    verb = next((i for i, token in enumerate(arguments) if not token.startswith("-")), None)
    if verb is not None:
        name = TOOLS.get(arguments[verb].removesuffix(".py").removesuffix(".bin"), arguments[verb])
        if name in TOOL_FLAGS:
            rest = _tool(TOOL_FLAGS[name], arguments[verb + 1 :])
            return [*arguments[:verb], name, *rest]
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
        if name and name not in VERBS[parts[place][1][0]]:
            tell(f"{parts[place][1][0]} makes no use of -{name}; it is passed over, as in Caffe.")
            continue
        head = f"-{tokens[0]}" if name and not tokens[0].startswith("--") else tokens[0]
        result += [head, *tokens[1:]]
    return result


def _tool(flags: Mapping[str, bool], tokens: Sequence[str]) -> list[str]:
    """A tool's arguments with its flags as ``--resize-height VALUE`` and ``--gray``."""
    result: list[str] = []
    rest = iter(tokens)
    for token in rest:
        if token == "--":
            return [*result, token, *rest]
        found = _FLAG.fullmatch(token)
        name = found[1] if found else ""
        value = found[2][1:] if found and found[2] else None
        ours = f"--{name.replace('_', '-')}"
        if name in SETTINGS:
            if value is None:
                next(rest, None)
        elif flags.get(name):
            value = next(rest, None) if value is None else value
            result += [ours] if value is None else [ours, value]
        elif name in flags and value in (None, *_TRUE):
            result.append(ours)
        elif not _is_off(name, value, flags):
            result.append(token)
    return result


def _is_off(name: str, value: str | None, flags: Mapping[str, bool]) -> bool:
    """Whether a flag says nothing: ``--gray=false``, ``--nogray``, and those of logging."""
    plain = name.removeprefix("no")
    if plain in SWITCHES:
        return True
    return value in _FALSE if name in flags else value is None and flags.get(plain) is False
