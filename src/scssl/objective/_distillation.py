"""Losses of one network that follows another: a student and its teacher, a prediction and its target."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax, softmax

from scssl._checks import check_number

from ._views import check_pairs, full_precision

__all__ = ["dino", "negative_cosine"]


@full_precision
def dino(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    r"""Cross-entropy of a student with its teacher :cite:p:`Caron2021`. Scalar, mean over the pairs.

    With two views, of which both networks see both, there are two pairs per cell, each network on
    another view: concatenate them. The teacher and the centre have no gradient here.

    .. math::

        L = -\frac1N \sum_{n=1}^{N} \sum_{k=1}^{K} P^t_{nk} \log P^s_{nk}, \qquad
        P^t_n = \operatorname{softmax}\left(\frac{t_n - c}{\tau_t}\right), \quad
        P^s_n = \operatorname{softmax}\left(\frac{s_n}{\tau_s}\right)

    over :math:`N` pairs of a student's output :math:`s_n` for one view and the teacher's output
    :math:`t_n` for another view of the same cell. The centre :math:`c` keeps one output from winning for all
    cells, the low temperature of the teacher keeps the outputs from being all alike.

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


@full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    r"""Negative cosine similarity :cite:p:`Grill2020,Chen2021` of predictions and what they predict.

    Scalar from -1 to 1, mean over the cells.

    Both methods stop the gradient at the projection, which is the caller's part: hand over
    ``z.detach()``. Without it embeddings collapse to a point.

    .. math::

        L = -\frac1B \sum_{i=1}^{B} \frac{p_i \cdot z_i}{\lVert p_i \rVert\,\lVert z_i \rVert}

    with :math:`p` the prediction from one view and :math:`z` the projection of the other. BYOL's squared
    distance of vectors of unit length is :math:`2 + 2L`.

    Parameters
    ----------
    p
        Predictions from one view, shape ``(n_cells, n_dimensions)``.
    z
        Projections of the other view, same shape.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import negative_cosine
    >>> negative_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]))
    tensor(-0.6000)
    """
    check_pairs(1, p=p, z=z)
    return -cosine_similarity(p, z, dim=1).mean()
