"""What a setup records of each modality."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModalitySetup:
    """How a model reads one modality of a MuData. JSON only.

    Parameters
    ----------
    kind
        ``"rna"``, ``"protein"`` or ``"atac"``: how the model calls it.
    name
        How the MuData calls it; empty for an AnnData that is read in its place.
    layer
        Layer with the values, `None` for ``X``.
    normalization
        See :class:`scssl.data.FeatureBlock`.
    n_features
        Number of features.
    """

    kind: str
    name: str
    layer: str | None
    normalization: str
    n_features: int

    @property
    def mod(self) -> str:
        """The modality, as a user would write it."""
        return f'mdata.mod["{self.name}"]' if self.name else "adata"

    @property
    def where(self) -> str:
        """The matrix, as a user would write it."""
        return f"{self.mod}.X" if self.layer is None else f'{self.mod}.layers["{self.layer}"]'
