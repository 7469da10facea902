"""Sharing of learnable blobs."""

from __future__ import annotations

import pytest

from caffe_bridge.errors import GraphError, ShapeError
from caffe_bridge.graph import Slot, parse_net, share


def slots(*layers: str, shapes=None) -> list[Slot]:
    """Slots of layers given by their param blocks; two blobs (4, 3) and (4,) unless stated."""
    text = "".join(
        f"layer {{ name: 'l{i}' type: 'X' {params} }}\n" for i, params in enumerate(layers)
    )
    return share(
        parse_net(text, source="n.prototxt").layers, shapes or [[(4, 3), (4,)]] * len(layers)
    )


def test_without_names_every_slot_owns_itself() -> None:
    made = slots("", "param { lr_mult: 2 }")
    assert [s.owner for s in made] == [0, 1, 2, 3]
    assert [(s.layer, s.index) for s in made] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [s.lr_mult for s in made] == [None, None, 2, None]


def test_named_slots_share_the_first() -> None:
    two = "param { name: 'w' } param { name: 'b' }"
    assert [s.owner for s in slots(two, two, two)] == [0, 1, 0, 1, 0, 1]


def test_sharing_within_a_layer() -> None:
    both = "param { name: 'w' } param { name: 'w' }"
    assert [s.owner for s in slots(both, shapes=[[(2,), (2,)]])] == [0, 0]


def test_multipliers_count_once() -> None:
    made = slots(
        "param { name: 'w' lr_mult: 2 }",
        "param { name: 'w' lr_mult: 2 decay_mult: 0 }",
        "param { name: 'w' force_mult: 3 }",
    )
    assert (made[0].lr_mult, made[0].decay_mult, made[0].force_mult) == (2, 0, 3)


@pytest.mark.parametrize("name", ["lr_mult", "decay_mult", "force_mult"])
def test_contradictory_multipliers(name: str) -> None:
    reason = rf"l1 \(X\) at n.prototxt:2: {name} 1.0 of the shared 'w' differs from 2.0 in l0"
    with pytest.raises(GraphError, match=reason):
        slots(f"param {{ name: 'w' {name}: 2 }}", f"param {{ name: 'w' {name}: 1 }}")


def test_a_later_multiplier_binds_too() -> None:
    with pytest.raises(GraphError, match="differs from 2"):
        slots(
            "param { name: 'w' }",
            "param { name: 'w' lr_mult: 2 }",
            "param { name: 'w' lr_mult: 3 }",
        )


def test_shapes_must_be_equal() -> None:
    shapes = [[(4, 3)], [(3, 4)]]
    reason = (
        r"l1 \(X\) at n.prototxt:2: shares 'w' with l0 .*\(3, 4\) and \(4, 3\).*"
        "share_mode: PERMISSIVE"
    )
    with pytest.raises(ShapeError, match=reason):
        slots("param { name: 'w' }", "param { name: 'w' }", shapes=shapes)
    permissive = "param { name: 'w' share_mode: PERMISSIVE }"
    assert slots("param { name: 'w' }", permissive, shapes=shapes)[1].owner == 0
    with pytest.raises(ShapeError):
        slots(permissive, "param { name: 'w' }", shapes=shapes)


def test_permissive_counts_must_be_equal() -> None:
    permissive = "param { name: 'w' share_mode: PERMISSIVE }"
    with pytest.raises(ShapeError, match=r"make them equal\.$"):
        slots(permissive, permissive, shapes=[[(4, 3)], [(4, 4)]])


def test_more_params_than_blobs() -> None:
    with pytest.raises(GraphError, match="has 2 param blocks but only 1 learnable blobs"):
        slots("param { } param { }", shapes=[[(2,)]])
