r"""Self-distillation, the loss of DINO :cite:p:`Caron2021`.

.. math::

    L = -\frac1N \sum_{n=1}^{N} \sum_{k=1}^{K} P^t_{nk} \log P^s_{nk}, \qquad
    P^t_n = \operatorname{softmax}\left(\frac{t_n - c}{\tau_t}\right), \quad
    P^s_n = \operatorname{softmax}\left(\frac{s_n}{\tau_s}\right)

over :math:`N` pairs of a student's output :math:`s_n` for one view and the teacher's output
:math:`t_n` for another view of the same cell. The centre :math:`c` keeps one output from winning for all
cells, the low temperature of the teacher keeps the outputs from being all alike.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from scssl._checks import check_number

from ._views import check_pairs, full_precision


@full_precision
def dino(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Cross-entropy of a student with its teacher :cite:p:`Caron2021`. Scalar, mean over the pairs.

    With two views, of which both networks see both, there are two pairs per cell, each network on
    another view: concatenate them. The teacher and the centre have no gradient here.

    Parameters
    ----------
    student, teacher
        Outputs of the two networks for different views, row by row of the same cells, shape
        ``(n_pairs, n_outputs)``.
    center
        Running mean of the teacher's outputs, shape ``(n_outputs,)``.
    student_temperature
        Divides the student's outputs. Both defaults are those of :cite:t:`Caron2021`.
    teacher_temperature
        Divides the teacher's outputs; :cite:t:`Caron2021` start there and raise it to 0.07
        over the first 30 epochs.

    Examples
    --------
    A student without an opinion on two outputs:

    >>> import torch
    >>> from scssl.objective import dino
    >>> dino(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.zeros(2))
    tensor(0.6931)
    """
    check_pairs(1, student=student, teacher=teacher)
    check_number("student_temperature", student_temperature, "(0, inf)")
    check_number("teacher_temperature", teacher_temperature, "(0, inf)")
    if center.shape != student.shape[1:]:
        raise ValueError(
            f"`center` must be of shape ({student.shape[1]},), one value per output; found "
            f"{tuple(center.shape)}."
        )
    target = softmax((teacher - center).detach() / teacher_temperature, dim=1)
    return -(target * log_softmax(student / student_temperature, dim=1)).sum(1).mean()
