"""What a model of tissues is told of data: samples, places, batches, panels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scssl._errors import warn
from scssl.data import Datasets
from scssl.data.keys import PANEL
from scssl.model.base import (
    TISSUE,
    CellReader,
    DatasetsMixin,
    DataSetup,
    SetupArgument,
    panels,
    record_tissue,
    tell_tissue,
)

from ._network import CellPLMModule

if TYPE_CHECKING:
    from anndata import AnnData

#: Genes of a panel at most.
PANEL_GENES = 1000
_TARGET_SUM = SetupArgument(
    """Sum of a cell before the logarithm, for counts. `None`: log1p of the counts as they are, as in
    :cite:p:`Wen2024`. ``"auto"`` (default): `None` for panels of up to 1,000 genes, where the sum says
    what a cell is, and 1e4 for more, where it mostly says how deeply it was sequenced.""",
    float | Literal["auto"] | None,
    "auto",
)


class CellPLMSetup(DatasetsMixin):
    """Set up a tissue, or several data sets, and read them."""

    module: CellPLMModule
    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        **TISSUE,
        "labels_key": SetupArgument(
            """Column of ``adata.obs`` with cell types. The validation split is stratified by it; it is a
            target only with ``objective="cross_entropy"`` and ``"supcon"``."""
        ),
        "target_sum": _TARGET_SUM,
    }
    _datasets_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "sample_key": SetupArgument(
            "Column of ``obs`` with the sample of each cell; data sets without it are one sample.",
            str | None,
        ),
        "spatial_key": SetupArgument(
            "Entry of ``obsm`` with the place of each cell; cells of data sets without it have none.",
            str | None,
        ),
        "target_sum": _TARGET_SUM,
    }

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        if given["target_sum"] == "auto":
            n_genes = len(data.genes) if isinstance(data, Datasets) else data.n_vars
            given = {**given, "target_sum": None if n_genes <= PANEL_GENES else 1e4}
        return super()._checked_setup(data, given)

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        if not isinstance(data, Datasets) and setup.spatial_key and not setup.sample_key:
            _warn_of_batches(data, setup.batch_key)
        return {"fingerprint": record_tissue(data, setup)}

    def _also_read(self, reader: CellReader, data: Any) -> None:
        assert self.module.context is not None
        tell_tissue(reader, data, self.module.context)
        codes, measured = panels(reader, data, self.genes)
        if measured is not None:
            reader.obs[PANEL], reader.measured = codes, measured


def _warn_of_batches(adata: AnnData, batch_key: str | None) -> None:
    """Warn of tissues that are taken as one."""
    n_batches = 0 if batch_key is None else adata.obs[batch_key].nunique()
    if n_batches > 1:
        warn(
            f'The cells have coordinates and {n_batches} batches of adata.obs["{batch_key}"], but no '
            "samples: all are taken as one tissue, in one frame of coordinates. If batches are slices: "
            f'sample_key="{batch_key}". If they are one tissue: make a column that says so, and name it.'
        )
