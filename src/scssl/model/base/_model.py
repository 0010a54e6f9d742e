"""What all models of the package have in common."""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._constants import _SCVI_UUID_KEY
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
)
from scvi.model.base import BaseModelClass

from scssl._checks import check_number
from scssl._errors import warn
from scssl.data import GeneAlignment, GeneVocabulary
from scssl.data.keys import TARGET
from scssl.module import SSLModule

from ._backbone import Backbone, copied
from ._foreign import SOURCE
from ._hub import HubMixin
from ._persistence import PersistenceMixin
from ._reader import CellReader, check_unchanged
from ._registry import get_model_class, list_models
from ._setup import DataSetup, check_anndata, fingerprint, inspect, make_setup
from ._setup_method import SetupArgument, setup_method
from ._train import TrainingMixin

_LOGGER = logging.getLogger("scssl")
SETUP = "scssl_setup"
# What scvi-tools passes on when it sets up data like others.
_OF_SCVI = ("source_registry", "extend_categories", "allow_missing_labels")


class SSLModel(HubMixin, TrainingMixin, PersistenceMixin, BaseModelClass):
    """Base of all models: set up an AnnData, train, embed, save.

    Subclasses build ``module`` and say in :meth:`_train_defaults` how they are trained where
    the user leaves it open. Everything else is shared.
    """

    module: SSLModule
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None

    #: Whether it is a self-supervised model, which others can start from.
    _learns_embeddings = True

    def __init__(
        self, adata: AnnData | None = None, registry: dict[str, Any] | None = None
    ) -> None:
        super().__init__(adata, registry)
        self.setup = DataSetup.from_dict(self.registry_[SETUP]["setup"])
        names = self.registry_["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
        self.genes = GeneVocabulary(names["column_names"])
        self.training_: dict[str, Any] = {}

    #: Arguments of setup methods that not all models take, or that mean something else to this one.
    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {}
    #: Those that it has no use for, and why.
    _setup_refuses: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_setup_takes" in vars(cls) or "_setup_refuses" in vars(cls):
            cls._setup_takes = {**super(cls, cls)._setup_takes, **vars(cls).get("_setup_takes", {})}
            own: Any = setup_method(SSLModel.setup_anndata, cls._setup_takes, cls._setup_refuses)
            cls.setup_anndata = own  # type: ignore[method-assign]

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        *,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        input: Literal["auto", "counts", "lognorm"] = "auto",
        target_sum: float = 1e4,
        **kwargs: Any,
    ) -> None:
        """Check an AnnData and say where things are in it.

        The matrix is looked at once. scvi-tools keeps what it registers in ``adata.uns["_scvi_uuid"]``,
        ``adata.uns["_scvi_manager_uuid"]``, ``adata.obs["_scvi_batch"]``, ``adata.obs["_scvi_labels"]``
        and, for covariates, in ``adata.obsm["_scvi_extra_..."]``; nothing else of `adata` is changed.

        Parameters
        ----------
        adata
            Cells by genes; in memory, or on disk (``backed="r"``, dask).
        layer
            Layer with the expression values, ``adata.X`` by default.
        batch_key
            Column of ``adata.obs`` with the batch. The decoder is told the batch; the encoder is not.
        labels_key
            Column of ``adata.obs`` with cell types. Never used as a target in self-supervised
            training: the validation split is stratified by it.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns of ``adata.obs`` that the decoder is told.
        input
            ``"counts"``: raw counts, normalised to `target_sum` and log1p-transformed as they are
            read, in batches. ``"lognorm"``: used as they are. ``"auto"``: decided from the values,
            and said why.
        target_sum
            Sum of a cell before the logarithm, for counts; 1e4 as in :cite:p:`Richter2025`.
        **kwargs
            Taken for compatibility with scvi-tools.

        Raises
        ------
        ValueError
            If `adata` is a view; if values are missing, negative, or not what `input` says; if gene
            names are duplicated; if an argument is not what it is used for.
        KeyError
            If a layer, column or entry does not exist.
        TypeError
            If `adata` is not an AnnData.

        Examples
        --------
        >>> import anndata, numpy as np, scssl
        >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 20)).astype("f4"))
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata, input="counts")
        """
        given = {k: v for k, v in locals().items() if k not in ("cls", "adata", "kwargs")}
        of_scvi = {name: kwargs.pop(name) for name in _OF_SCVI if name in kwargs}
        unknown = sorted(set(kwargs) - set(cls._setup_takes) - set(cls._setup_refuses))
        if unknown:
            raise TypeError(f"setup_anndata() has no argument {unknown[0]!r}.")
        check_anndata(adata)
        given = cls._checked_setup(adata, given | kwargs)
        setup, stats = make_setup(adata, given)
        recorded = cls._also_recorded(adata, setup, given)
        found = fingerprint(adata, stats) | recorded.pop("fingerprint", {})
        fields: list[Any] = [
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, setup.batch_key),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, list(setup.categorical_keys)),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, list(setup.continuous_keys)),
        ]
        if labels_key is None or not adata.obs[labels_key].isna().any():
            # Labels may be missing for some cells, which scvi-tools' field does not allow.
            fields.insert(2, CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key))
        manager = cls._manager(fields, adata=adata, **given)
        with warnings.catch_warnings():
            # Of small categories: nothing is estimated per category here.
            warnings.filterwarnings("ignore", message="Category .* has fewer than 3 cells")
            manager.register_fields(adata, **of_scvi)
        manager.registry[SETUP] = {"setup": setup.to_dict(), "fingerprint": found, **recorded}
        cls.register_manager(manager)

    @classmethod
    def _manager(cls, fields: Sequence[Any] = (), **arguments: Any) -> AnnDataManager:
        """What scvi-tools keeps of data; `arguments` of the setup method, data among them by name."""
        return AnnDataManager(list(fields), cls._get_setup_method_args(cls=cls, **arguments))

    @classmethod
    def _register_features(cls, manager: AnnDataManager, data: Any, names: Any) -> None:
        """Register data that have no one matrix, for which scvi-tools has no field."""
        manager.register_fields(data)
        manager.registry["field_registries"][REGISTRY_KEYS.X_KEY] = {
            "data_registry": {},
            "state_registry": {"n_vars": len(names), "column_names": np.asarray(names)},
            "summary_stats": {"n_cells": data.n_obs, "n_vars": len(names)},
        }

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a setup method as they are used and recorded, of an AnnData or other data."""
        for name, why in cls._setup_refuses.items():
            if keys := given.pop(name, None):
                raise ValueError(f"{cls.__name__} {why}, found {name}={keys!r}. Leave it out.")
        for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
            if isinstance(keys := given.get(name), str):
                raise TypeError(
                    f"Covariate keys are a list of columns, found {keys!r}. Pass [{keys!r}]."
                )
        # Counts without a common scale are for models alone that say what they are to them.
        scaled = "target_sum" not in cls._setup_takes
        scale = check_number("target_sum", given["target_sum"], "(0, inf)", none=not scaled)
        return {**given, "target_sum": scale}

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Entries of the registry beside the setup, and in ``"fingerprint"`` what identifies the data."""
        return {}

    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None:
        """Remember what was set up; data that are a copy of others get an identity of their own.

        A copy has the identifier of the original in `uns`, under which scvi-tools would take one for the
        other.

        Parameters
        ----------
        adata_manager
            What scvi-tools knows of the data.
        """
        adata, known = adata_manager.adata, adata_manager.adata_uuid
        stores = [get_model_class(name)._setup_adata_manager_store for name in list_models()]
        taken = (store[known].adata for store in stores if known in store)
        if any(other is not adata for other in taken):
            adata_manager.registry[_SCVI_UUID_KEY] = adata.uns[_SCVI_UUID_KEY] = str(uuid4())
        super().register_manager(adata_manager)

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: Any, required: bool = False) -> Any:
        try:
            return super()._get_most_recent_anndata_manager(adata, required)
        except ValueError as error:
            what, how = cls._called(adata)
            found = "not set up"
            managers = (
                (name, manager)
                for name in list_models()
                for manager in get_model_class(name)._setup_adata_manager_store.values()
            )
            others = [name for name, manager in managers if manager.adata is adata]
            if others:
                found = f"set up for {others[-1]}, not for {cls.__name__}"
            elif "_scvi_uuid" in adata.uns:
                found = "a copy of data that were set up, or from another session"
            raise ValueError(
                f"`{what}` is {found}. Set it up for this model: "
                f"scssl.model.{cls.__name__}.{how}({what})"
            ) from error

    @classmethod
    def _called(cls, data: Any) -> tuple[str, str]:
        """What data are called in messages, and the method that sets them up."""
        return "adata", "setup_anndata"

    @classmethod
    @abstractmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> SSLModule:
        """Untrained module of a model with these arguments, as :meth:`_config` gives them."""

    @classmethod
    def _encoder_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """These arguments for a module that only embeds."""
        return {**arguments, "decoder": False} if "decoder" in arguments else dict(arguments)

    def _backbone(self) -> Backbone:
        """Encoder of this model, for another model to start from."""
        return Backbone(
            type(self).__name__,
            self._encoder_arguments(self._config()),
            self.setup,
            self.genes,
            self.n_latent,
            pretrained=bool(self._has_learnt),
            weights=copied(self.module.state_dict()),
        )

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
    ) -> np.ndarray:
        """Embed cells.

        Genes are matched by name: their order in `adata` makes no difference, genes that the model
        does not know are left out, and genes that `adata` does not have are zero. The embedding of
        a cell does not depend on the batch it is in.

        Parameters
        ----------
        adata
            Cells to embed, the model's own by default. It need not be set up.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default. It makes no difference to the result.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        Float32, shape ``(n_cells, n_latent)``, in the order of `indices`.

        Raises
        ------
        GeneMismatchError
            If too few genes are found.
        ValueError
            If the values are not of the kind that the model was trained on.
        """
        data = self._read(adata, min_overlap=min_overlap)
        if self.module.encodes_covariates:
            data = data.with_covariates()
        if not self._has_learnt:
            warn("The model is not trained: embeddings are random projections. Call model.train().")
        rows = data.rows(indices)
        return self._apply(data, rows, batch_size, self.module.embed, self.n_latent)

    @property
    def _has_learnt(self) -> bool:
        """Whether the encoder is more than a random projection."""
        return self.is_trained_

    @property
    def n_latent(self) -> int:
        """Width of the embedding."""
        return int(self._config()["n_latent"])

    def _apply(
        self,
        data: CellReader,
        rows: np.ndarray,
        batch_size: int | None,
        function: Any,
        width: int | None,
    ) -> np.ndarray:
        """Apply a function of a batch to cells, in evaluation mode, into one array."""
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, found {batch_size}.")
        if data.context is not None:
            rows, back = np.unique(rows, return_inverse=True)
        out = np.empty((len(rows),) if width is None else (len(rows), width), dtype=np.float32)
        device, start, n_empty = self.module.device, 0, 0
        trains = self.module.training
        self.module.eval()
        try:
            for batch in data.loader(rows, batch_size or 2048) if len(rows) else ():
                found = function({name: value.to(device) for name, value in batch.items()})
                where: Any = slice(start, start + len(found))
                empty = batch["library"].sum(1) == 0
                if data.context is not None:
                    asked = batch[TARGET].squeeze(1).bool()
                    where = np.searchsorted(rows, batch["indices"][asked].numpy())
                    empty &= asked
                    # A function that is dear for each cell gives those alone that are asked for.
                    if len(found) == len(asked):
                        found = found[asked.to(found.device)]
                out[where] = found.float().cpu().numpy()
                start += len(found)
                n_empty += int(empty.sum())
        finally:
            # A callback may embed cells in training.
            self.module.train(trains)
        if data.context is not None:
            out = out[back]
        if n_empty and data.alignment is not None:
            warn(
                f"{n_empty:,} of {len(rows):,} cells have no value in any gene of the model: all get "
                "the same result."
            )
        return out

    def align(self, adata: AnnData, *, min_overlap: float = 0.0) -> GeneAlignment:
        """How the genes of a data set map onto those of the model, by name.

        Parameters
        ----------
        adata
            The data.
        min_overlap
            Share of the model's genes that it must have.
        """
        return self.genes.align(adata.var_names, min_overlap=min_overlap)

    def _read(self, adata: AnnData | None, *, min_overlap: float = 0.5) -> CellReader:
        """Check a data set against the model and open it."""
        own = adata is None or adata is self._adata
        adata = self._or_own(adata)
        check_anndata(adata)
        if own:
            self._check_unchanged({"cells": adata.n_obs, "genes": adata.n_vars})
        alignment = self.genes.align(adata.var_names, min_overlap=min_overlap)
        matrix, stats, _ = inspect(adata, self.setup.layer, self.setup.input_kind, by_model=True)
        reader = CellReader(self.setup, adata, matrix, None if alignment.is_identity else alignment)
        reader.fingerprint = fingerprint(adata, stats)
        self._also_read(reader, adata)
        if own:
            self._check_unchanged(reader.fingerprint)
        if alignment.n_missing:
            _LOGGER.info(alignment.report())
        return reader

    def _also_read(self, reader: CellReader, data: Any) -> None:
        """Tell a reader what this model reads of data besides expression and columns."""

    def _or_own(self, data: Any) -> Any:
        """These data, by default the model's own."""
        data = self._adata if data is None else data
        if data is None:
            raise ValueError("The model was loaded without an AnnData. Pass one: adata=...")
        return data

    def _check_unchanged(self, found: Mapping[str, Any]) -> None:
        """Refuse own data that are not what they were when they were set up."""
        check_unchanged(found, self.registry_[SETUP].get("fingerprint"), self._called(self._adata))

    @property
    def source(self) -> dict[str, Any] | None:
        """Where the weights were taken from, `None` if they were not taken from a checkpoint.

        File, digest, commit of the repository (``"revision"``), kind of network, what became of each
        of its tensors, and what to know of it.
        """
        found: dict[str, Any] | None = self.registry_.get(SOURCE)
        return found

    def __repr__(self) -> str:
        lines = [
            f"{type(self).__name__}: {self._model_summary_string}",
            f"  genes: {len(self.genes):,} ({self.genes.id_type}), input {self.setup.input_kind}",
        ]
        source = self.source
        if source is not None:
            lines.append(f"  weights of {source['file']} from {source['source']}: {source['is']}")
        done = self.training_
        if self.is_trained_ and done:
            lines.append(
                f"  trained: {done['epochs']} epochs on {done['n_cells']:,} cells "
                f"(best epoch {done['best_epoch']}, loss {done['best_loss']:.4g}, "
                f"ended by {done['stopped_by']})"
            )
        elif not self.is_trained_:
            lines.append("  not trained")
        return "\n".join(lines)
