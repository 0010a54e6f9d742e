"""Encoder of cells with several modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scssl._checks import check_choice

from ._encoder import BatchNormEncoder
from ._gene_layers import SparseRows
from ._processes import n_of_all, only

Fusion = Literal["add", "mean", "concat", "clip"]
FUSIONS: tuple[Fusion, ...] = ("concat", "add", "mean", "clip")


@dataclass(frozen=True)
class ModalityRows:
    """One modality of a batch.

    Parameters
    ----------
    x
        The cells that have it, sparse or dense.
    cells
        Their places in the batch, ascending; int64.
    """

    x: SparseRows | Tensor
    cells: Tensor


class MultiView:
    """A batch of cells with several modalities, any of which a cell may lack.

    Parameters
    ----------
    parts
        The modalities by name.
    n_cells
        Number of cells of the batch.
    """

    def __init__(self, parts: Mapping[str, ModalityRows], n_cells: int) -> None:
        self.parts, self.n_cells = dict(parts), n_cells
        self._embedded: dict[int, dict[str, Tensor]] = {}

    def embedded(self, encoder: MultiEncoder) -> dict[str, Tensor]:
        """Embeddings of each modality by an encoder, computed once: a view lives for one step.

        By modality, shape ``(n_cells_with_it, n_latent)``.

        Parameters
        ----------
        encoder
            The encoder.
        """
        if id(encoder) not in self._embedded:
            found = {}
            for name, part in self.parts.items():
                with only(part.cells):
                    found[name] = encoder.embed_modality(name, part.x)
            self._embedded[id(encoder)] = found
        return self._embedded[id(encoder)]


class MultiEncoder(nn.Module):
    """An encoder for each modality, and one embedding of what they find.

    The embeddings of the modalities are added (``"add"``), averaged (``"mean"``, ``"clip"``) or put
    side by side (``"concat"``). A modality that a cell lacks is left out of the average; added or put
    side by side it is the mean of that modality's embeddings, which is the shift of the last batch norm
    of its encoder, or zero without batch norm. Batch norm sees the cells that have the modality only; one
    cell alone is normalised with the running statistics.

    Parameters
    ----------
    n_features
        Number of features of each modality, by name.
    fusion
        How embeddings are put together.
    n_latent
        Width of the embedding of a modality.
    **options
        Of :class:`BatchNormEncoder`, the same for all modalities.

    Attributes
    ----------
    encoders
        The encoder of each modality.
    n_out
        Width of the embedding of a cell.

    Raises
    ------
    ValueError
        If `fusion` is not one of the above or there is no modality.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import ModalityRows, MultiEncoder, MultiView
    >>> encoder = MultiEncoder({"rna": 100, "protein": 10}, fusion="concat", n_latent=8)
    >>> rna = ModalityRows(torch.rand(3, 100), torch.arange(3))
    >>> protein = ModalityRows(torch.rand(2, 10), torch.tensor([0, 2]))
    >>> encoder(MultiView({"rna": rna, "protein": protein}, 3)).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        *,
        fusion: Fusion = "concat",
        n_latent: int = 64,
        **options: Any,
    ) -> None:
        super().__init__()
        if not n_features:
            raise ValueError("`n_features` must name the features of one modality at least.")
        self.fusion = check_choice("fusion", fusion, FUSIONS)
        self.names, self.n_latent = tuple(n_features), n_latent
        self.encoders = nn.ModuleDict(
            {
                name: BatchNormEncoder(n, n_latent=n_latent, **options)
                for name, n in n_features.items()
            }
        )
        self.n_out = n_latent * len(self.names) if fusion == "concat" else n_latent

    def encoder_of(self, name: str) -> BatchNormEncoder:
        """Encoder of a modality.

        Parameters
        ----------
        name
            Of the modality.
        """
        encoder = self.encoders[name]
        assert isinstance(encoder, BatchNormEncoder)
        return encoder

    def embed_modality(self, name: str, x: SparseRows | Tensor) -> Tensor:
        """Embeddings of cells by the encoder of a modality. Shape ``(n_cells, n_latent)``.

        Parameters
        ----------
        name
            Of the modality.
        x
            Cells that have it; there may be none.
        """
        encoder = self.encoder_of(name)
        n_cells = x.n_cells if isinstance(x, SparseRows) else len(x)
        # Without cells the encoder is run too, so that all weights have a gradient in every process.
        few = n_of_all(n_cells) < 2 and self.training
        if few:
            encoder.eval()
        z: Tensor = encoder(x)
        if few:
            encoder.train()
        return z

    def fuse(self, embedded: Mapping[str, Tensor], view: MultiView) -> Tensor:
        """One embedding per cell. Shape ``(n_cells, n_out)``.

        Parameters
        ----------
        embedded
            Embeddings of each modality, as :meth:`MultiView.embedded` gives them.
        view
            Says which cells they are of.
        """
        average = self.fusion in ("mean", "clip")
        spread = []
        for name in self.names:
            z, cells = embedded[name], view.parts[name].cells
            if len(cells) == view.n_cells:
                spread.append(z)
                continue
            absent = z.new_zeros(self.n_latent) if average else self._middle(name).to(z.dtype)
            spread.append(absent.expand(view.n_cells, -1).index_copy(0, cells, z))
        if self.fusion == "concat":
            return torch.cat(spread, dim=1)
        # One after the other, so that a cell's sum has the same bits in any batch.
        total = spread[0]
        for z in spread[1:]:
            total = total + z
        if not average:
            return total
        found = total.new_zeros(view.n_cells)
        for name in self.names:
            found.index_add_(0, view.parts[name].cells, found.new_ones(len(embedded[name])))
        return total / found.clamp(min=1).unsqueeze(1)

    def _middle(self, name: str) -> Tensor:
        """Mean of the embeddings of a modality."""
        encoder = self.encoder_of(name)
        for layer in reversed(encoder.rest):
            if isinstance(layer, nn.BatchNorm1d):
                return layer.bias
            if isinstance(layer, nn.Linear):
                break
        return encoder.gene_encoder.weight.new_zeros(self.n_latent)

    def forward(self, view: MultiView) -> Tensor:
        """Embeddings of a batch. Shape ``(n_cells, n_out)``.

        Parameters
        ----------
        view
            The batch.
        """
        return self.fuse(view.embedded(self), view)
