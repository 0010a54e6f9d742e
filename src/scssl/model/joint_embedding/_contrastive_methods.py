"""The joint-embedding models that tell the views of a cell from those of other cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from anndata import AnnData

from scssl._checks import check_number
from scssl.model.base import register_model

from ._method_networks import MoCoModule, NNCLRModule, SimCLRModule
from ._model import JointEmbedding


@register_model
class SimCLR(JointEmbedding):
    r"""Contrast the views of a cell with those of the other cells of a batch :cite:p:`Chen2020`.

    .. math:: L = -\log \frac{e^{s(z_i, z_{p(i)}) / \tau}}{\sum_{j \ne i} e^{s(z_i, z_j) / \tau}}

    over all :math:`2B` views of a batch, :math:`s` the cosine and :math:`p(i)` the other view of the
    cell.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    temperature
        :math:`\tau`. The default was measured here; :cite:t:`Ovcharenko2025` took 0.5.
    loss
        ``"nt_xent"``, the loss above, or ``"dcl"``, without the positive pair in the denominator
        :cite:p:`Yeh2022`, which suffers less from small batches.
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default two layers as wide as the embedding.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.SimCLR.setup_anndata(adata)
    >>> model = scssl.model.SimCLR(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = SimCLRModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        temperature: float = 0.2,
        loss: Literal["nt_xent", "dcl"] = "nt_xent",
        **kwargs: Any,
    ) -> None:
        check_number("temperature", temperature, "(0, inf)")
        if loss not in ("nt_xent", "dcl"):
            raise ValueError(f'`loss` must be "nt_xent" or "dcl", found {loss!r}.')
        super().__init__(adata, registry, temperature=float(temperature), loss=loss, **kwargs)


@register_model
class MoCo(JointEmbedding):
    r"""Contrast a view with a queue of embeddings by a slow copy of the network :cite:p:`He2020`.

    .. math:: L = -\log \frac{e^{q \cdot k_+ / \tau}}{e^{q \cdot k_+ / \tau} + \sum_{k \in Q} e^{q \cdot k / \tau}}

    with :math:`q` the one view, :math:`k_+` the other as the copy sees it, both of length 1, and
    :math:`Q` the queue of what the copy made of earlier cells, with an MLP as projector
    :cite:p:`Chen2020MoCo`.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    temperature
        :math:`\tau`. The default was measured here; :cite:t:`Ovcharenko2025` took 0.5.
    queue_size
        Embeddings in the queue, saved with the model. `None`: 2,048 as in :cite:p:`Ovcharenko2025`, but
        no more than a quarter of the cells, or the queue would hold the cell itself.
    momentum
        Share of the copy's weights that it keeps in a step; rises along half a cosine to 1. `None`:
        1 - 80 / steps, within 0.9 and 0.996, the latter as in :cite:p:`Ovcharenko2025`.
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default two layers as wide as the embedding, without batch normalisation.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.MoCo.setup_anndata(adata)
    >>> model = scssl.model.MoCo(adata, queue_size=512)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = MoCoModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        temperature: float = 0.2,
        queue_size: int | None = None,
        momentum: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("temperature", temperature, "(0, inf)")
        check_number("momentum", momentum, "[0, 1]", none=True)
        super().__init__(
            adata,
            registry,
            temperature=float(temperature),
            queue_size=queue_size,
            momentum=momentum,
            **kwargs,
        )


@register_model
class NNCLR(JointEmbedding):
    r"""Contrast the nearest earlier embedding of a view with the other view :cite:p:`Dwibedi2021`.

    .. math::

        L = \tfrac12 \left(\ell(\mathrm{NN}(z_1), p(z_2)) + \ell(\mathrm{NN}(z_2), p(z_1))\right), \quad
        \ell(n, p) = \frac{1}{2B} \sum_{i=1}^{2B}
            -\log \frac{e^{s(u_i, u_{i'}) / \tau}}{\sum_{j \ne i} e^{s(u_i, u_j) / \tau}}

    with :math:`p` a predictor, :math:`\mathrm{NN}` the most similar of the embeddings of earlier cells, which
    has no gradient, :math:`u` the :math:`B` neighbours and the :math:`B` predictions together, :math:`s` the
    cosine and :math:`i'` the neighbour or prediction that belongs to :math:`i`. This :math:`\ell` is the
    loss of :class:`SimCLR`, as in lightly and :cite:t:`Ovcharenko2025`. The equation of
    :cite:t:`Dwibedi2021` has less: there a neighbour is contrasted with the :math:`B` predictions only,
    :math:`-\log (e^{s(n_i, p_i) / \tau} / \sum_k e^{s(n_i, p_k) / \tau})`. Here it is with the other
    neighbours of the batch too, and each prediction with all neighbours and the other predictions, which
    pushes predictions apart.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    predictor_dims
        Widths of the predictor's hidden layers, (64,) as in :cite:p:`Ovcharenko2025`.
    temperature
        Divides the cosines. The default was measured here; :cite:t:`Ovcharenko2025` took 0.5.
    queue_size
        Earlier embeddings to look among, saved with the model. `None`: 2,048 as in
        :cite:p:`Ovcharenko2025`, but no more than a quarter of the cells, or the nearest would be an
        older view of the cell itself.
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default three layers as wide as the embedding.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.NNCLR.setup_anndata(adata)
    >>> model = scssl.model.NNCLR(adata, queue_size=512)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = NNCLRModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        predictor_dims: Sequence[int] = (64,),
        temperature: float = 0.2,
        queue_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("temperature", temperature, "(0, inf)")
        super().__init__(
            adata,
            registry,
            predictor_dims=predictor_dims,
            temperature=float(temperature),
            queue_size=queue_size,
            **kwargs,
        )
