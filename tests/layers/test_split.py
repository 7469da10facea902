import torch

from tests.helpers import check_layer


def test_every_top_is_the_bottom() -> None:
    check_layer('type: "Split"', [(2, 3, 4)], [(2, 3, 4)] * 3, lambda x: [x, x, x])
    check_layer('type: "Split"', [(2, 3)], [(2, 3)], lambda x: [x])


def test_gradients_are_summed() -> None:
    net = check_layer('type: "Split"', [(1, 2)], [(1, 2)] * 2)
    x = torch.ones(1, 2, requires_grad=True)
    a, b = net.layer("l")(x)
    (a.sum() + 3 * b.sum()).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[4.0, 4.0]]
