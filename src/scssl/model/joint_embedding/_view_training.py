"""How joint-embedding models are trained: on views, and the graphs that these draw cells from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from scssl._errors import warn
from scssl.augment import Augmentation
from scssl.data import PartnerWalks
from scssl.data.keys import PRESENT, category_key
from scssl.model.base import CellReader, DataSetup

from ._modality_views import Views, choose_views, config_of, views_from_config
from ._multimodal import MultimodalMixin
from ._network import JointEmbeddingModule
from ._view_graphs import graph_tables, report_coverage

_LOGGER = logging.getLogger("scssl")


class ViewTraining(MultimodalMixin):
    """The part of a joint-embedding model that makes views, to train it."""

    module: JointEmbeddingModule
    _module_class: ClassVar[type[JointEmbeddingModule]]
    #: Cells per step where there are fewer than 20,000. What contrasts cells needs some to contrast.
    _few_cells_batch: ClassVar[int] = 128
    _arguments: dict[str, Any]

    if TYPE_CHECKING:

        def _summary(self) -> str: ...

    @property
    def augmentation(self) -> Augmentation | dict[str, Augmentation] | None:
        """What makes the views; of a MuData by modality. It can be set, as in the constructor."""
        found: Views | None = self.module.augmentation  # type: ignore[assignment]
        return found

    @augmentation.setter
    def augmentation(self, augmentation: Any) -> None:
        before, views = self.augmentation, None
        if augmentation is not None:
            views = choose_views(augmentation, self.setup)
        self.module.augmentation = views
        try:
            self._tables(self._adata)
        except (KeyError, TypeError, ValueError):
            self.module.augmentation = before
            raise
        self._model_summary_string = self._summary()

    def _config(self) -> dict[str, Any]:
        # The views are those of the module and kept nowhere else.
        views = self.augmentation
        return {**self._arguments, "augmentation": None if views is None else config_of(views)}

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Any) -> Self:
        views = config["augmentation"]
        if views is not None:
            views = views_from_config(views)
        return cls(registry=registry, **{**config, "augmentation": views})

    def _saved_config(self) -> dict[str, Any]:
        config = self._config()
        if config["augmentation"] is None:
            return config
        try:
            views_from_config(config["augmentation"])
        except ValueError as error:
            warn(
                f"{error} No views are saved. The loaded model embeds and can be fine-tuned; to train it "
                "further: model.augmentation = ..."
            )
            return {**config, "augmentation": None}
        return config

    def _tables(self, adata: Any) -> PartnerWalks | None:
        """Graphs that the views draw other cells from; `None` where they need none."""
        found = self.augmentation
        views = found.get("rna") if isinstance(found, dict) else found
        if views is None:
            return None
        walks = (views.walks(0), views.walks(1))
        if not views.graphs() or adata is None:
            return None
        return PartnerWalks(graph_tables(adata, views, self.setup), walks)

    def _with_rna(self, data: CellReader, rows: np.ndarray) -> np.ndarray:
        """Those of the cells whose views can be made with others."""
        if not self.setup.modalities:
            return rows
        found: np.ndarray = rows[data.obs[PRESENT][rows, self.modalities.index("rna")] > 0]
        return found

    def _training_data(self) -> CellReader:
        if self.augmentation is None:
            raise ValueError(
                "This model has no augmentation (one that is not of scssl is not saved), so it cannot be "
                "trained to compare views. Give it one, such as model.augmentation = "
                "scssl.augment.Mask(0.5)"
            )
        data = self._read(None)
        if self.setup.batch_key is not None:
            data.obs[category_key(self.setup.batch_key)] = self.setup.codes(
                data.adata, self.setup.batch_key
            )
        data.partners = self._tables(self._adata)
        return data

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: Mapping[str, Any], *, resumed: bool
    ) -> dict[str, Any]:
        self._start_idf(data, rows)
        views = self.augmentation
        parts = views.values() if isinstance(views, dict) else (views,)
        if not any(part is not None and part.changes for part in parts):
            warn(
                f"The two views of a cell never differ: {views!r} changes nothing. Pass views that do, "
                'such as model.augmentation = "default".'
            )
        # The momentum of a target follows the number of steps in total.
        identity: dict[str, Any] = {"max_epochs": chosen["max_epochs"]}
        tables = {} if data.partners is None else data.partners.tables
        if tables:
            identity["graphs"] = {name: table.digest for name, table in tables.items()}
            report_coverage(tables, self._with_rna(data, rows))
        return identity

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        few = n_cells < 20_000
        epochs = round(200_000 / max(n_cells, 1))
        return {
            "max_epochs": int(np.clip(epochs, 20, 100)),
            "batch_size": self._few_cells_batch if few else 256,
            "lr": 2e-3 if few else 1e-3,
            "weight_decay": 1e-2,
            "lr_schedule": "cosine",
            "patience": 20,
            "early_stopping": self._module_class.loss_ranks_epochs,
        }


def say_of_batches(setup: DataSetup) -> None:
    """The default views have the batch in common, so that it is learnt."""
    key = setup.batch_key
    if key is None or len(setup.categories[key]) < 2:
        return
    _LOGGER.info(
        "Batches stay apart with the default views. To bring them together: "
        "scssl.pp.cross_batch_neighbors(adata, %r, method='mnn') and then augmentation='integration'.",
        key,
    )
