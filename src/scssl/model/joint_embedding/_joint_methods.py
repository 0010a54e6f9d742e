"""The joint-embedding models without a contrast between cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anndata import AnnData

from scssl._checks import check_number, check_whole
from scssl.model.base import register_model

from ._method_networks import BarlowTwinsModule, BYOLModule, DINOModule, SimSiamModule, VICRegModule
from ._model import JointEmbedding


@register_model
class BYOL(JointEmbedding):
    r"""Predict what a slow copy of the network makes of the other view :cite:p:`Grill2020`.

    .. math:: L = -\tfrac12 \left(s(p(z_1), z'_2) + s(p(z_2), z'_1)\right)

    with :math:`s` the cosine, :math:`p` the predictor and :math:`z'` the projections by the copy. No
    other cell takes part.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    predictor_dims
        Widths of the predictor's hidden layers, (256,) as in :cite:p:`Ovcharenko2025`.
    momentum
        Share of the copy's weights that it keeps in a step; rises along half a cosine to 1. `None`:
        1 - 80 / steps, within 0.9 and 0.996, the latter as in :cite:p:`Grill2020`.
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default a layer of 256 and one as wide as the embedding.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.BYOL.setup_anndata(adata)
    >>> model = scssl.model.BYOL(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = BYOLModule
    _few_cells_batch = 64

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        predictor_dims: Sequence[int] = (256,),
        momentum: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("momentum", momentum, "[0, 1]", none=True)
        super().__init__(
            adata,
            registry,
            predictor_dims=predictor_dims,
            momentum=momentum,
            **kwargs,
        )


@register_model
class SimSiam(JointEmbedding):
    r"""Predict the projection of the other view, with no gradient to it :cite:p:`Chen2021`.

    .. math:: L = -\tfrac12 \left(s(p(z_1), \bar z_2) + s(p(z_2), \bar z_1)\right)

    with :math:`s` the cosine, :math:`p` the predictor and :math:`\bar z` a projection that is taken as
    given.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    predictor_dims
        Widths of the predictor's hidden layers. The default was measured here;
        :cite:t:`Ovcharenko2025` took (16,).
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default three layers of 256.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.SimSiam.setup_anndata(adata)
    >>> model = scssl.model.SimSiam(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = SimSiamModule
    _few_cells_batch = 64

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        predictor_dims: Sequence[int] = (64,),
        **kwargs: Any,
    ) -> None:
        super().__init__(adata, registry, predictor_dims=predictor_dims, **kwargs)


@register_model
class BarlowTwins(JointEmbedding):
    r"""Make the cross-correlation of two views the identity matrix :cite:p:`Zbontar2021`.

    .. math:: L = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2

    with :math:`C` the correlation, over the cells of a batch, of the dimensions of one view with those
    of the other.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    redundancy
        :math:`\lambda`, 5e-3 as in :cite:p:`Zbontar2021`.
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default three layers of 256.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.BarlowTwins.setup_anndata(adata)
    >>> model = scssl.model.BarlowTwins(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = BarlowTwinsModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        redundancy: float = 5e-3,
        **kwargs: Any,
    ) -> None:
        check_number("redundancy", redundancy, "(0, inf)")
        super().__init__(adata, registry, redundancy=float(redundancy), **kwargs)


@register_model
class VICReg(JointEmbedding):
    r"""Bring two views together, with variance in each dimension and no covariance :cite:p:`Bardes2022`.

    .. math::

        L = \lambda \frac{1}{BD} \lVert Z_1 - Z_2 \rVert^2
            + \mu \tfrac12 \sum_v \frac{1}{D} \sum_j \max\left(0, 1 - \sqrt{\mathrm{Var}(Z_{v,j}) + \epsilon}\right)
            + \nu \sum_v \frac{1}{D} \sum_{i \ne j} \mathrm{Cov}(Z_v)_{ij}^2

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    invariance, variance, covariance
        :math:`\lambda`, :math:`\mu` and :math:`\nu`; 25, 25 and 1 as in :cite:p:`Bardes2022`.
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default two layers of 256.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.VICReg.setup_anndata(adata)
    >>> model = scssl.model.VICReg(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = VICRegModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_number("invariance", invariance, "(0, inf)")
        check_number("variance", variance, "(0, inf)")
        check_number("covariance", covariance, "(0, inf)")
        super().__init__(
            adata,
            registry,
            invariance=float(invariance),
            variance=float(variance),
            covariance=float(covariance),
            **kwargs,
        )


@register_model
class DINO(JointEmbedding):
    r"""Assign a view to the prototypes that a slow copy of the network gives the other :cite:p:`Caron2021`.

    .. math:: L = -\sum_k P'_k \log P_k

    with :math:`P = \mathrm{softmax}(s / \tau_s)` of the scores :math:`s` of the prototypes for the one view
    and :math:`P' = \mathrm{softmax}((s' - c) / \tau_t)` for the other by the copy; :math:`c` is the running mean
    of the scores, which keeps one prototype from taking all cells.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    n_prototypes
        Number of prototypes, 1,024.
    student_temperature, teacher_temperature
        :math:`\tau_s` and :math:`\tau_t`, 0.1 and 0.04 as in :cite:p:`Caron2021`.
    center_momentum
        Share of the running mean that is kept in a step, 0.9 as in :cite:p:`Caron2021`.
    momentum
        Share of the copy's weights that it keeps in a step; rises along half a cosine to 1. `None`:
        1 - 80 / steps, within 0.9 and 0.996, the latter as in :cite:p:`Caron2021`.
    **kwargs
        Encoder, views and projector: arguments of :class:`JointEmbedding`. The projector has by
        default a layer of 256 and one as wide as the embedding, before the prototypes.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.DINO.setup_anndata(adata)
    >>> model = scssl.model.DINO(adata, n_prototypes=128)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    _module_class = DINOModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        n_prototypes: int = 1024,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        momentum: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_number("student_temperature", student_temperature, "(0, inf)")
        check_number("teacher_temperature", teacher_temperature, "(0, inf)")
        check_number("center_momentum", center_momentum, "[0, 1]", none=True)
        check_number("momentum", momentum, "[0, 1]", none=True)
        super().__init__(
            adata,
            registry,
            n_prototypes=check_whole("n_prototypes", n_prototypes),
            student_temperature=float(student_temperature),
            teacher_temperature=float(teacher_temperature),
            center_momentum=float(center_momentum),
            momentum=momentum,
            **kwargs,
        )
