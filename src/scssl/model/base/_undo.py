"""Training is done or it is not: after an error, all is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ._model import SSLModel

#: Entry of ``adata.uns`` with the cells that were trained and validated on.
SPLIT = "scssl_split"


@contextmanager
def undone_on_error(model: SSLModel) -> Iterator[None]:
    """Give a model, its module and its data back the state that they have now if the block fails.

    Networks stay the objects that they are, as others may have them too. Copies of weights are kept on
    the CPU.
    """
    before, module, data = dict(vars(model)), model.module, model.adata
    parts = [
        (part, dict(vars(part)), [(d, dict(d)) for d in _contents(part)])
        for part in module.modules()
    ]
    tensors = [
        (tensor, tensor.device, tensor.requires_grad, tensor.detach().to("cpu", copy=True))
        for tensor in (*module.parameters(), *module.buffers())
    ]
    split = None if data is None else data.uns.get(SPLIT)
    try:
        yield
    except BaseException:
        for part, attributes, contents in parts:
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for there, was in contents:
                there.clear()
                there.update(was)
        for tensor, device, requires_grad, value in tensors:
            # Lightning moves modules between devices.
            tensor.data = value.to(device)
            tensor.requires_grad_(requires_grad).grad = None
        model.__dict__.update(before)
        if data is not None and data.uns.get(SPLIT) is not split:
            data.uns.pop(SPLIT)
            if split is not None:
                data.uns[SPLIT] = split
        raise


def _contents(part: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    return part._parameters, part._buffers, part._modules
