"""Networks of joint-embedding methods: the encoder, and its projectors and predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ._gene_layers import GeneEncoder, SparseRows
from ._mlp import BatchNorm, Dropout
from ._mlp import activation as make_activation


class BatchNormEncoder(nn.Module):
    """Encoder of a cell's expression, with batch norm after every linear layer or without any.

    With batch norm a hidden layer is linear, batch norm, activation, and the last one linear, batch
    norm, dropout, as in :cite:p:`Ovcharenko2025`. Without it activation and dropout are between
    layers and nothing follows the last, as in the encoder of the masked autoencoder.

    Parameters
    ----------
    n_genes
        Number of genes.
    hidden_dims
        Width of the hidden layers; without any the encoder is one linear layer. The default and that
        of `n_latent` are those of :cite:t:`Ovcharenko2025`.
    n_latent
        Width of the embedding.
    activation
        Name of the activation.
    dropout
        Share of units dropped in training: of the embedding with batch norm, of hidden layers
        without.
    batch_norm
        Whether there is batch norm.

    Attributes
    ----------
    gene_encoder
        The layer on the genes.
    rest
        Everything behind it, on dense input.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import BatchNormEncoder, SparseRows
    >>> encoder = BatchNormEncoder(2000)
    >>> cells = torch.rand(8, 2000)
    >>> encoder(SparseRows.from_tensor(cells)).shape
    torch.Size([8, 64])
    """

    def __init__(
        self,
        n_genes: int,
        *,
        hidden_dims: Sequence[int] = (128,),
        n_latent: int = 64,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        widths = [*hidden_dims, n_latent]
        self.n_genes, self.n_latent = n_genes, n_latent
        self.gene_encoder = GeneEncoder(n_genes, widths[0])
        if batch_norm:
            # Batch norm takes any bias away again. What is left of its gradient is rounding noise,
            # which Adam would blow up to full steps.
            nn.init.zeros_(self.gene_encoder.bias)
            self.gene_encoder.bias.requires_grad_(False)
        layers: list[nn.Module] = []
        for width, following in zip(widths[:-1], widths[1:], strict=True):
            if batch_norm:
                layers.append(BatchNorm(width))
            layers.append(make_activation(activation))
            if not batch_norm:
                layers.append(Dropout(dropout))
            layers.append(nn.Linear(width, following, bias=not batch_norm))
        if batch_norm:
            layers += [BatchNorm(n_latent), Dropout(dropout)]
        self.rest = nn.Sequential(*layers)

    def forward(self, x: SparseRows | Tensor) -> Tensor:
        """Embeddings of a batch. Shape ``(n_cells, n_latent)``.

        Parameters
        ----------
        x
            Expression, sparse or dense.
        """
        first = self.gene_encoder.dense(x) if isinstance(x, Tensor) else self.gene_encoder(x)
        z: Tensor = self.rest(first)
        return z

    def parts(self) -> list[nn.Module]:
        """Layers from the genes to the embedding, each with its batch norm."""
        parts = [nn.ModuleList([self.gene_encoder])]
        for layer in self.rest:
            if isinstance(layer, nn.Linear):
                parts.append(nn.ModuleList())
            if isinstance(layer, nn.Linear | nn.BatchNorm1d):
                parts[-1].append(layer)
        return list(parts)


class ProjectionHead(nn.Module):
    """Linear layers with batch norm and ReLU in between: a projector or a predictor.

    ======================  =========================================================
    method                  head
    ======================  =========================================================
    SimCLR                  ``[d, h, o]``, ``last_batch_norm=True``
    MoCo v2                 ``[d, h, o]``, ``batch_norm=False``
    BYOL                    ``[d, h, o]``
    NNCLR                   ``[d, h, h, o]``, ``last_batch_norm=True``
    SimSiam                 ``[d, h, h, o]``, ``last_batch_norm=True, last_affine=False``
    Barlow Twins            ``[d, h, h, o]``
    VICReg                  ``[d, h, o]`` or deeper
    predictor, all methods  ``[o, h, o]``
    ======================  =========================================================

    Parameters
    ----------
    sizes
        Width of the input and of every layer's output, two at least.
    batch_norm
        Whether batch norm follows every linear layer but the last.
    last_batch_norm
        Whether batch norm follows the last layer.
    last_affine
        Whether the batch norm after the last layer has a scale and a shift.
    bias
        Whether linear layers have a bias; ``"auto"``: those that no batch norm follows, which would
        take it away again.

    Raises
    ------
    ValueError
        If there are fewer than two sizes.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import ProjectionHead
    >>> ProjectionHead([64, 256, 32])(torch.randn(8, 64)).shape
    torch.Size([8, 32])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_norm: bool = True,
        last_batch_norm: bool = False,
        last_affine: bool = True,
        bias: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(
                "`sizes` must have the width of the input and of each layer's output, as in "
                f"[64, 256, 64]; found {list(sizes)}."
            )
        self.n_in, self.n_out = sizes[0], sizes[-1]
        layers: list[nn.Module] = []
        n_layers = len(sizes) - 1
        for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            last = i == n_layers - 1
            normalised = last_batch_norm if last else batch_norm
            layers.append(nn.Linear(n_in, n_out, bias=not normalised if bias == "auto" else bias))
            if normalised:
                layers.append(BatchNorm(n_out, affine=last_affine or not last))
            if not last:
                layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Projections of embeddings, or predictions from projections.

        Shape ``(n_cells, sizes[-1])``.

        Parameters
        ----------
        x
            Shape ``(n_cells, sizes[0])``.
        """
        y: Tensor = self.layers(x)
        return y
