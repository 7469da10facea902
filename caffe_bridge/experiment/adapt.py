"""A training net around a trained deploy net, with a recipe's data and losses.

Published weights often belong to a net of the recipe's kind with other layer names. The recipe
gives what is missing to train on: data layers, loss and accuracy, and which layers are forced.
"""

from __future__ import annotations

from caffe_bridge.errors import SchemaError
from caffe_bridge.schema import Record


def _spatial(layer: Record) -> bool:
    """Whether a layer is a convolution with a kernel above 1."""
    if layer.type != "Convolution":
        return False
    param = layer.convolution_param
    return max([*param.kernel_size, param.kernel_h, param.kernel_w]) > 1


def spatial_layers(net: Record) -> tuple[str, ...]:
    """Convolutions with a kernel above 1, which leaves 1x1 shortcuts out."""
    return tuple(dict.fromkeys(layer.name for layer in net.layer if _spatial(layer)))


def _forced(layer: Record) -> bool:
    return any(spec.force_mult for spec in layer.param)


def _entry(deploy: Record) -> Record:
    entries = [layer for layer in deploy.layer if layer.type == "Input"]
    if len(entries) != 1 or len(entries[0].top) != 1:
        raise SchemaError(
            f"{deploy.origin or deploy.name}: has {len(entries)} Input layers; an experiment wants "
            "a deploy net with one Input layer and one top."
        )
    return entries[0]


def training_net(recipe: Record, deploy: Record) -> Record:
    """Put a recipe's data layers and losses around a deploy net, and force its convolutions.

    Convolutions with a kernel above 1 are forced; the first of them only where the recipe's first
    one is. Where the deploy net has a ``force_mult`` itself, nothing is added.

    Args:
        recipe: the recipe's training net, unfiltered.
        deploy: the trained net, with one Input layer; a Softmax at its end is left out.

    Raises:
        SchemaError: the deploy net has no single input, or no single answer.
    """
    entry = _entry(deploy)
    made = Record("NetParameter", name=deploy.name or recipe.name)
    names = {layer.name for layer in deploy.layer}
    for layer in recipe.layer:
        if layer.bottom:
            continue
        new = layer.copy()
        new.top = [entry.top[0], *layer.top[1:]]
        made.append("layer", new)
    body = [layer.copy() for layer in deploy.layer if layer.type not in ("Input", "Softmax")]
    read = {bottom for layer in body for bottom in layer.bottom if bottom not in layer.top}
    answers = list(dict.fromkeys(top for layer in body for top in layer.top if top not in read))
    if len(answers) != 1:
        raise SchemaError(
            f"{deploy.origin or deploy.name}: answers with {', '.join(answers) or 'nothing'}; an "
            "experiment wants a deploy net with one answer, the scores of the classes."
        )
    _force(recipe, body)
    for layer in body:
        if layer.has("batch_norm_param"):
            layer.batch_norm_param.clear("use_global_stats")
        made.append("layer", layer)
    scores = _scores(recipe)
    for layer in recipe.layer:
        if layer.bottom and "label" in layer.bottom and layer.name not in names:
            new = layer.copy()
            new.bottom = [answers[0] if b == scores else b for b in layer.bottom]
            made.append("layer", new)
    return made


def _scores(recipe: Record) -> str:
    """The blob that the recipe's loss compares with the labels."""
    losses = [layer for layer in recipe.layer if layer.type == "SoftmaxWithLoss"]
    if len(losses) != 1:
        raise SchemaError(f"{recipe.origin or recipe.name}: has no single SoftmaxWithLoss layer.")
    return str(losses[0].bottom[0])


def _force(recipe: Record, body: list[Record]) -> None:
    if any(_forced(layer) for layer in body):
        return
    models = [layer for layer in recipe.layer if _spatial(layer)]
    chosen = [layer for layer in body if _spatial(layer)]
    if models and not _forced(models[0]):
        chosen = chosen[1:]
    for layer in chosen:
        spec = layer.param[0] if layer.param else layer.add("param")
        spec.force_mult = 1.0
