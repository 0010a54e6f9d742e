"""AdamW that also takes gradients of a few rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scssl.nn import cpu


class RowAdamW(torch.optim.AdamW):
    """AdamW :cite:p:`Loshchilov2019`, with lazy updates where a gradient is sparse.

    Parameters with a dense gradient go through PyTorch's fused AdamW. Where the gradient is sparse
    (of the genes that a step decoded), only the rows in it are touched: moments, weight decay and
    bias correction of a row advance with the steps in which it was drawn, so a rarely drawn row
    takes full Adam steps when it is drawn, instead of fading ones.

    Parameters
    ----------
    params
        Parameters or groups of them.
    lr
        Learning rate.
    weight_decay
        Decoupled weight decay.
    **kwargs
        As for :class:`torch.optim.AdamW`.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 1e-2, **kwargs: Any
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, **{"fused": True, **kwargs})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        sparse: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None and gradient.is_sparse:
                    sparse.append((parameter, gradient))
                    parameter.grad = None
                    self._step_rows(parameter, gradient, group)
        super().step()
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return result

    def _step_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "row_steps" not in state:
            # PyTorch looks for it in the state of every parameter when an optimiser is restored.
            state["step"] = torch.zeros(())
            # Float, because restoring an optimiser casts its state to the type of the parameter.
            state["row_steps"] = torch.zeros(len(parameter), device=parameter.device)
            state["row_exp_avg"] = torch.zeros_like(parameter)
            state["row_exp_avg_sq"] = torch.zeros_like(parameter)
        rows, values = gradient._indices()[0], gradient._values()
        if not bool((rows.diff() > 0).all()):  # cheaper than coalescing what is in order already
            gradient = gradient.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
        beta1, beta2 = group["betas"]
        lr, eps, decay = float(group["lr"]), group["eps"], group["weight_decay"]
        steps, first, second = state["row_steps"], state["row_exp_avg"], state["row_exp_avg_sq"]
        if cpu.enabled(parameter, values):
            from scssl.nn.cpu.rows import adamw_rows

            wide = (
                t.view(len(t), -1).numpy() for t in (values.contiguous(), parameter, first, second)
            )
            grad, weight, m, v = wide
            hyper = {"lr": lr, "betas": group["betas"], "eps": eps, "weight_decay": decay}
            adamw_rows(rows.numpy(), grad, weight, m, v, steps.numpy(), **hyper)
            return
        count = steps.index_select(0, rows).add_(1)
        m = first.index_select(0, rows).lerp_(values, 1 - beta1)
        v = second.index_select(0, rows).mul_(beta2).addcmul_(values, values, value=1 - beta2)
        steps.index_copy_(0, rows, count)
        first.index_copy_(0, rows, m)
        second.index_copy_(0, rows, v)
        count = count.view((-1,) + (1,) * (parameter.ndim - 1))
        root = v.sqrt_().mul_((1 - beta2**count).rsqrt_()).add_(eps)
        update = m.mul_(lr / (1 - beta1**count))
        row = parameter.index_select(0, rows).mul_(1 - lr * decay).addcdiv_(update, root, value=-1)
        parameter.index_copy_(0, rows, row)
