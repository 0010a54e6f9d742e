"""What all models of the package have in common."""

from __future__ import annotations

import copy
import logging
import platform
import tempfile
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.loggers import Logger
from scvi import REGISTRY_KEYS
from scvi.data._constants import _SCVI_UUID_KEY
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
)
from scvi.model.base import BaseModelClass

from scssl._checks import (
    BATCHES,
    LABELLED,
    check_adata,
    check_destination,
    check_number,
    check_whole,
    get_column,
    get_embedding,
    likely_column,
    likely_coordinates,
    no_argument,
)
from scssl._errors import MALFORMED, BundleError, warn
from scssl._io import as_path
from scssl._random import RNG, as_seed, derive_seed
from scssl._settings import settings
from scssl.data import GeneAlignment, GeneVocabulary, scan_matrix, train_validation_split
from scssl.data.genes import translated
from scssl.data.keys import TARGET
from scssl.hub import (
    collect,
    has_tag,
    is_repo_id,
    make_card,
    push_bundle,
    read_bundle,
    renamed,
    write_bundle,
)
from scssl.module import SSLModule
from scssl.nn import to_device
from scssl.train import (
    CHECKPOINT_NAME,
    FitOptions,
    FitResult,
    TrainOptions,
    append_history,
    check_arguments,
    check_distributed,
    fit,
    history_frames,
    history_lists,
    n_processes,
    pass_on,
    resolve_output_genes,
)

from ._arguments import EXPLAINED, Face, NotOffered, explained, known_arguments, offered
from ._backbone import Backbone, copied
from ._folder import (
    SOURCE,
    build_fitting,
    card_facts,
    encoder_digest,
    versions,
    with_genes,
    without_genes,
)
from ._managers import WeakManager, forget_with
from ._options import documented
from ._registry import get_model_class, list_models
from ._setup import (
    CellReader,
    DataSetup,
    check_unchanged,
    feature_names,
    fingerprint,
    inspect,
    is_known,
    make_setup,
    matrix_of,
)
from ._setup_method import SetupArgument, setup_method
from ._undo import SPLIT, undone_on_error

_LOGGER = logging.getLogger("scssl")
SETUP = "scssl_setup"
# Share of a model's genes below which data are a panel.
_PANEL = 0.25
# What scvi-tools passes on when it sets up data like others.
_OF_SCVI = ("source_registry", "extend_categories", "allow_missing_labels")


class _Categories(CategoricalObsField):
    """A field of scvi-tools for a column with values of several types, which cannot be sorted."""

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """How many categories there are."""
        return {self.count_stat_key: len(state_registry[self.CATEGORICAL_MAPPING_KEY])}


_LIKELY: dict[str, Callable[[Any], str | None]] = {
    "batch_key": lambda data: likely_column(data.obs, *BATCHES),
    "labels_key": lambda data: likely_column(data.obs, *LABELLED),
    "spatial_key": likely_coordinates,
    "layer": lambda data: next((name for name in getattr(data, "layers", ()) if name), None),
}


class SSLModel(BaseModelClass, metaclass=Face):
    """Base of all models: set up an AnnData, train, embed, save.

    Subclasses build ``module`` and say in :meth:`_train_defaults` how they are trained where
    the user leaves it open. Everything else is shared.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    rng
        Seed of the initial weights.
    """

    module: SSLModule
    #: Hyper-parameters, as they are saved.
    _arguments: dict[str, Any]
    #: What the model was made of where it is no AnnData; `_adata` stands for it.
    _collection: Any = None
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None

    #: Whether it is a self-supervised model, which others can start from.
    _learns_embeddings = True
    #: Whether training has every gene as a target, so that none may be absent from the data.
    _learns_all_genes = True

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
        cls.__doc__ = documented(cls.__doc__, SSLModel.__doc__)
        for name in EXPLAINED:
            if name in vars(cls):
                setattr(cls, name, explained(vars(cls)[name]))
        if "_setup_takes" in vars(cls) or "_setup_refuses" in vars(cls):
            cls._setup_takes = {**super(cls, cls)._setup_takes, **vars(cls).get("_setup_takes", {})}
            own: Any = setup_method(SSLModel.setup_anndata, cls._setup_takes, cls._setup_refuses)
            # A method that a class writes itself stays.
            if "setup_anndata" not in vars(cls):
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
        target_sum: float | Literal["auto"] = "auto",
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
            Sum of a cell before the logarithm, for counts. ``"auto"``: 1e4 as in :cite:p:`Richter2025`, and of a
            panel of up to 1,000 genes, whose cells have far fewer counts, the median of the sums of the cells:
            scaled up to 1e4, a single count weighs almost as much as ten. It is recorded, and other data are
            normalised to the same.
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
            known = known_arguments(cls, "setup_anndata", {})
            name = unknown[0]
            raise TypeError(no_argument("setup_anndata()", name, kwargs[name], known))
        check_adata(adata, matrix=kwargs.get("use_rep") is None)
        given = cls._checked_setup(adata, given | kwargs)
        setup, stats = make_setup(adata, given)
        recorded = cls._also_recorded(adata, setup, given)
        names = feature_names(adata, setup.use_rep)
        matrix = None if setup.use_rep is not None else matrix_of(adata, layer)
        found = fingerprint(names, stats, matrix) | recorded.pop("fingerprint", {})
        fields: list[Any] = [
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False),
            _Categories(REGISTRY_KEYS.BATCH_KEY, setup.batch_key),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, list(setup.categorical_keys)),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, list(setup.continuous_keys)),
        ]
        if labels_key is None or not get_column(adata, labels_key).isna().any():
            # Labels may be missing for some cells, which scvi-tools' field does not allow.
            fields.insert(2, _Categories(REGISTRY_KEYS.LABELS_KEY, labels_key))
        if not isinstance(adata.obs, pd.DataFrame):
            # Nothing can be written to columns that are read lazily.
            del fields[1:]
        if setup.use_rep is not None:
            del fields[0]
        manager = cls._manager(fields, adata=adata, **given)
        with warnings.catch_warnings():
            # Of small categories: nothing is estimated per category here.
            warnings.filterwarnings("ignore", message="Category .* has fewer than 3 cells")
            if setup.use_rep is None:
                manager.register_fields(adata, **of_scvi)
            else:
                cls._register_features(manager, adata, names, **of_scvi)
        manager.registry[SETUP] = {"setup": setup.to_dict(), "fingerprint": found, **recorded}
        cls.register_manager(manager)

    @classmethod
    def _manager(cls, fields: Sequence[Any] = (), **arguments: Any) -> WeakManager:
        """What scvi-tools keeps of data; `arguments` of the setup method, data among them by name."""
        return WeakManager(list(fields), cls._get_setup_method_args(cls=cls, **arguments))

    @classmethod
    def _register_features(
        cls, manager: WeakManager, data: Any, names: Any, **of_scvi: Any
    ) -> None:
        """Register data that have no one matrix of genes, for which scvi-tools has no field."""
        manager.register_fields(data, **of_scvi)
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
                raise TypeError(f'`{name}` are a list of columns. Pass `{name}=["{keys}"]`.')
            if keys is not None:
                # One that was given twice is told once.
                given = {**given, name: list(dict.fromkeys(keys))}
        if isinstance(given.get("spatial_key"), (list, tuple)):
            given = {**given, "spatial_key": tuple(given["spatial_key"])}
        # Counts without a common scale are for models alone that say what they are to them.
        if given["target_sum"] == "auto":
            return given
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
    def register_manager(cls, adata_manager: WeakManager) -> None:
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
        if any(other is not adata and other is not None for other in taken):
            adata_manager.registry[_SCVI_UUID_KEY] = adata.uns[_SCVI_UUID_KEY] = str(uuid4())
        super().register_manager(adata_manager)
        forget_with(adata, cls._setup_adata_manager_store, adata_manager.adata_uuid)

    def _register_manager_for_instance(self, adata_manager: WeakManager) -> None:
        super()._register_manager_for_instance(adata_manager)
        forget_with(self, self._per_instance_manager_store, self.id)

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
                for manager in list(get_model_class(name)._setup_adata_manager_store.values())
            )
            others = [name for name, manager in managers if manager.adata is adata]
            if others:
                found = f"set up for {others[-1]}, not for {cls.__name__}"
            elif "_scvi_uuid" in adata.uns:
                found = "a copy of data that were set up, or from another session"
            raise ValueError(
                f"`{what}` is {found}. Set it up: {cls._setup_line(adata)}."
            ) from error

    @classmethod
    def _setup_line(cls, data: Any, given: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """The call that sets data up, as they were `given` but for the `changes`; for messages."""
        what, how = cls._called(data)
        usual = signature(getattr(cls, how)).parameters
        typed = {**cls._setup_needs(data), **(given or {}), **changes}
        arguments = [f"{k}={v!r}" for k, v in typed.items() if k in usual and v != usual[k].default]
        return f"`scssl.model.{cls.__name__}.{how}({', '.join([what, *arguments])})`"

    def _setup_again(self, name: str | None = None, **changes: Any) -> str:
        """The call that sets the model's own data up with these arguments instead; for messages.

        Argument `name` is given what it is likely to be; where nothing is, it is only named.
        """
        data: Any = self._adata if self._collection is None else self._collection
        if name is not None:
            changes[name] = None if self._adata is None else _LIKELY[name](self._adata)
            if changes[name] is None:
                return f"`{name}` of {self._called(data)[1]}"
        return self._setup_line(data, self.registry_["setup_args"], **changes)

    @classmethod
    def _setup_needs(cls, data: Any) -> dict[str, Any]:
        """What a setup cannot do without, as it is likely for these data."""
        return {}

    @classmethod
    def _called(cls, data: Any) -> tuple[str, str]:
        """What data are called in messages, and the method that sets them up."""
        return "adata", "setup_anndata"

    @classmethod
    def _more_arguments(cls, given: Mapping[str, Any]) -> list[str]:
        """Names of arguments that the constructor hands on to another class."""
        return []

    get_normalized_expression = NotOffered(
        lambda cls: (
            "Expression as it is decoded: `model.get_reconstruction(adata)`."
            if hasattr(cls, "get_reconstruction")
            else "It decodes no expression; scssl.model.MaskedAutoencoder does."
        )
    )
    differential_abundance = NotOffered(
        lambda cls: "Tools for that take an embedding: `scssl.tl.embed(adata, model)`."
    )
    get_normalized_function_name = NotOffered(lambda cls: "It is of models with a likelihood.")
    setup_annbatch = NotOffered(
        lambda cls: "Cells may stay on disk: set up an AnnData that was read with backed='r'."
    )

    def __dir__(self) -> list[str]:
        return offered(type(self), super().__dir__())

    # --- the network ---------------------------------------------------------------------------

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

    def _start_module(self, rng: RNG, **live: Any) -> None:
        """Build the module, with new weights; `live` are arguments that are saved in another form."""
        if self._adata is not None:
            for key, (mean, spread) in self.setup.continuous_scale.items():
                told = "%r is standardised for the model: mean %.4g, standard deviation %.4g."
                _LOGGER.info(told, key, mean, spread)
        arguments = {**self._arguments, **live}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(as_seed(rng), "weights"))
            self.module = self._build_module(arguments, genes=self.genes, setup=self.setup)

    def _config(self) -> dict[str, Any]:
        """Arguments to build the model again, JSON only."""
        return self._arguments

    def _saved_config(self) -> dict[str, Any]:
        """What is saved of :meth:`_config`: nothing that could not be loaded."""
        return self._config()

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Mapping[str, Any]) -> Self:
        """Model without data from what :meth:`_config` gave."""
        return cls(registry=registry, **config)

    def untrained(self, rng: RNG = 0) -> Self:
        """Return the same model with new weights: what it was, or could have been, before training.

        It has the arguments, the genes and the normalisation of this one and no data: what pretraining is
        worth is the difference between models that start from the two.

        Parameters
        ----------
        rng
            Seed of the weights.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
        >>> model = scssl.model.MaskedAutoencoder(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> model.untrained(rng=1).is_trained_
        False
        """
        new = self._from_config(copy.deepcopy(self.registry_), self._saved_config())
        new.genes = self.genes
        new._start_module(rng, **new._config())
        new.module.to(self.module.device).eval()
        return new

    @property
    def n_trainable(self) -> int:
        """Number of weights that training changes."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    # --- reading and embedding cells -----------------------------------------------------------

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
        orthologs: str | Path | pd.DataFrame | None = None,
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
            Share of the model's genes that `adata` must have. Of a panel, counts are normalised over the genes
            that are there: scaled to their share in the data of the model they were farther from these.
        orthologs
            For cells of another species than the model's: a table of orthologs of both, as for
            :func:`scssl.pp.map_orthologs`. Which species is which is told by the names; genes without a
            one-to-one ortholog are left out, and the log says how many.

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
        if orthologs is not None:
            adata, _ = self.translated(self._or_own(adata), orthologs)
        data = self._read(adata, min_overlap=min_overlap, indices=indices)
        if self.module.encodes_covariates:
            data = data.with_covariates()
        self._warn_if_untrained()
        rows = data.rows(indices)
        return self._apply(data, rows, batch_size, self.module.embed, self.n_latent)

    @property
    def _has_learnt(self) -> bool:
        """Whether the encoder is more than a random projection."""
        return self.is_trained_ or self.module.is_warm

    def _warn_if_untrained(self) -> None:
        if not self._has_learnt:
            warn(
                "The model is not trained: embeddings are random projections. Call `model.train()`."
            )

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
        batch_size = check_whole("batch_size", 2048 if batch_size is None else batch_size)
        if data.context is not None:
            rows, back = np.unique(rows, return_inverse=True)
        out = np.empty((len(rows),) if width is None else (len(rows), width), dtype=np.float32)
        device, start, n_empty = self.module.device, 0, 0
        done: tuple[Any, torch.Tensor] | None = None

        def take(done: tuple[Any, torch.Tensor] | None) -> None:
            if done is not None:
                out[done[0]] = done[1].float().cpu().numpy()

        trains = self.module.training
        self.module.eval()
        try:
            for batch in data.loader(rows, batch_size) if len(rows) else ():
                found = function({name: to_device(value, device) for name, value in batch.items()})
                where: Any = slice(start, start + len(found))
                empty = batch["library"].sum(1) == 0
                if data.context is not None:
                    asked = batch[TARGET].squeeze(1).bool()
                    where = np.searchsorted(rows, batch["indices"][asked].numpy())
                    empty &= asked
                    # A function that is dear for each cell gives those alone that are asked for.
                    if len(found) == len(asked):
                        found = found[asked.to(found.device)]
                # One batch later: a device works on this one while the next is read.
                take(done)
                done = where, found
                start += len(found)
                n_empty += int(empty.sum())
            take(done)
        finally:
            # A callback may embed cells in training.
            self.module.train(trains)
        lost = ~np.isfinite(out if width is None else out.sum(axis=1, dtype=np.float64))
        if lost.any():
            largest = max(float(p.abs().max()) for p in self.module.parameters() if p.numel())
            raise ValueError(
                f"The model makes no finite numbers of {int(lost.sum()):,} of {len(out):,} cells, the first "
                f"is {data.name_of(rows[lost.argmax()])!r}. Its weights go up to {largest:.2g}, so "
                "it was damaged or its training diverged: load another copy, or train a new model."
            )
        if data.context is not None:
            out = out[back]
        if n_empty and data.alignment is not None:
            warn(
                f"{n_empty:,} of {len(rows):,} cells have no value in any gene of the model: all "
                "get the same result."
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

    def translated(
        self, adata: AnnData, orthologs: str | Path | pd.DataFrame
    ) -> tuple[AnnData, dict[str, Any]]:
        """Cells of another species with the model's names of their genes, and what is lost by that.

        Parameters
        ----------
        adata
            The cells, which are not changed; the result has the same arrays.
        orthologs
            A table of orthologs, as for :func:`scssl.pp.map_orthologs`.

        Returns
        -------
        AnnData and dict
            The cells, in which a gene without a one-to-one ortholog has a name that no model knows; and
            ``from_species`` and ``to_species``, ``counts`` of genes that are mapped and of those that are not by the
            reason, and ``genes``, a frame with a row for each.

        Raises
        ------
        GeneMismatchError
            If the table does not have both species, or no gene is mapped.
        """
        check_adata(adata, matrix=True)
        names, report = translated(
            adata.var_names.to_numpy(dtype=object), orthologs, self.genes.names
        )
        same = {name: adata.layers[name] for name in adata.layers if name is not None}
        cells = AnnData(adata.X, obs=adata.obs, obsm=dict(adata.obsm), layers=same)
        cells.var_names = names
        return cells, report

    def _read(
        self, adata: AnnData | None, *, min_overlap: float = 0.5, indices: Any = None
    ) -> CellReader:
        """Check a data set against the model and open it.

        Only cells that are to be read, by their `indices`, are looked at, and none of own data on disk that
        are as they were recorded.
        """
        own = adata is None or adata is self._adata or adata is self._collection
        adata = self._or_own(adata)
        collection = self._collection if own else adata
        if not (collection is None or isinstance(collection, AnnData)):
            found = self._read_collection(collection, own=own, min_overlap=min_overlap)
            if found is not None:
                if own:
                    self._check_unchanged(found.fingerprint)
                return found
        if self.setup.use_rep is not None:
            return self._read_embedding(adata, self.setup.use_rep, own)
        check_adata(adata, matrix=True)
        if own:
            self._check_unchanged({"cells": adata.n_obs, "genes": adata.n_vars})
        alignment = self.genes.align(adata.var_names, min_overlap=min_overlap, var=adata.var)
        matrix = matrix_of(adata, self.setup.layer)
        reader = CellReader(self.setup, adata, matrix, None if alignment.is_identity else alignment)
        recorded = self.registry_[SETUP].get("fingerprint")
        if own and is_known(adata.var_names, matrix, recorded):
            reader.fingerprint = dict(recorded)
        else:
            # Cells that see others are read with them.
            rows = None if indices is None or self.setup.sees_others else reader.rows(indices)
            if rows is None or len(rows):
                _, stats, _ = inspect(
                    adata,
                    self.setup.layer,
                    self.setup.input_kind,
                    by_model=True,
                    expected=self.setup.expected,
                    used=alignment.columns >= 0,
                    rows=rows,
                )
            if rows is None:
                reader.fingerprint = fingerprint(adata.var_names, stats, matrix)
        self._also_read(reader, adata)
        if own:
            self._check_unchanged(reader.fingerprint)
        if alignment.n_missing:
            _LOGGER.info(alignment.report())
        if (
            alignment.overlap < _PANEL
            and self.setup.input_kind == "counts"
            and self.setup.target_sum
        ):
            _LOGGER.info(
                "A panel: counts are normalised to %g over the genes that are there.",
                self.setup.target_sum,
            )
        return reader

    def _read_collection(self, data: Any, *, own: bool, min_overlap: float) -> CellReader | None:
        """Open data of another class than AnnData; `None` if the model reads none of that class."""
        return None

    def _read_embedding(self, adata: AnnData, use_rep: str, own: bool) -> CellReader:
        """Open an embedding that the model reads in place of expression."""
        check_adata(adata)
        advice = "Compute it as for the data that the model was trained on."
        values = get_embedding(adata, use_rep, advice=advice)
        names = feature_names(adata, use_rep)
        if len(names) != len(self.genes):
            raise ValueError(
                f"{self.setup.where} has {len(names):,} dimensions, the model was trained with "
                f"{len(self.genes):,}. {advice}"
            )
        reader = CellReader(self.setup, adata, values, None)
        reader.fingerprint = fingerprint(names, scan_matrix(values))
        self._also_read(reader, adata)
        if own:
            self._check_unchanged(reader.fingerprint)
        return reader

    def _also_read(self, reader: CellReader, data: Any) -> None:
        """Tell a reader what this model reads of data besides expression and columns."""

    def _or_own(self, data: Any) -> Any:
        """These data, by default the model's own."""
        data = self._adata if data is None else data
        if data is None:
            what = "mdata" if self.setup.modalities else "adata"
            raise ValueError(
                "The model was loaded without an AnnData, and has no cells of its own. Give it some: "
                f"`model.attach({what})`."
            )
        return data

    def _check_unchanged(self, found: Mapping[str, Any]) -> None:
        """Refuse own data that are not what they were when they were set up."""
        recorded = self.registry_[SETUP].get("fingerprint")
        check_unchanged(found, recorded, lambda: self._called(self._adata))

    def attach(self, adata: AnnData) -> None:
        """Make an AnnData the model's own, to embed it or to go on training.

        Parameters
        ----------
        adata
            Data with the genes and columns that the model was set up with; it is not changed.
        """
        data = self._read(adata)
        self._check_columns(data)
        if self.setup.labels_key is not None:
            get_column(data.adata, self.setup.labels_key)
        self._adata, self._collection = adata, None
        self.registry_[SETUP]["fingerprint"] = data.fingerprint

    def _check_columns(self, data: CellReader) -> None:
        """Refuse cells without the columns that training reads."""
        data.with_covariates()

    # --- training ------------------------------------------------------------------------------

    def _default_train_size(self, labels: pd.Series | None) -> float:
        """Share of the cells to train on where the user leaves it open."""
        return 0.9

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: TrainOptions, *, resumed: bool
    ) -> dict[str, Any]:
        """Get ready to train on these cells; what it returns is part of the run's identity."""
        return {}

    def _after_training(
        self, data: CellReader, rows: np.ndarray, held_out: np.ndarray
    ) -> dict[str, Any]:
        """Settle what training has left; what it returns is part of ``training_``."""
        return {}

    def _training_data(self) -> CellReader:
        """The model's own cells, with what the loss needs besides expression."""
        return self._read(None).with_covariates()

    def _training_cells(self, data: CellReader) -> np.ndarray:
        """Row numbers of the cells to learn from or to validate on."""
        return np.arange(data.n_cells)

    def _divided(
        self, data: CellReader, train_size: float | None, seed: int
    ) -> tuple[Any, Any, float]:
        """Rows to learn from and to validate on, and the share of the former."""
        cells = self._training_cells(data)
        if len(cells) < 3:
            raise ValueError(f"Training needs at least 3 cells, `adata` has {len(cells)}.")
        if data.held_out is not None:
            held_out = data.held_out[cells]
            if held_out.all() or not held_out.any():
                what = "all" if held_out.all() else "none"
                raise ValueError(
                    f"`hold_out` is {what} of the {len(cells):,} cells that can be learned from. Name other categories."
                )
            return cells[~held_out], cells[held_out], float(np.mean(~held_out))
        key = self.setup.labels_key
        labels = None if key is None else get_column(data.adata, key).iloc[cells]
        if train_size is None:
            train_size = self._default_train_size(labels)
        training, validation = self._split(data, cells, labels, train_size, seed)
        return cells[training], cells[validation], train_size

    def _split(
        self,
        data: CellReader,
        cells: np.ndarray,
        labels: pd.Series | None,
        train_size: float,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places in `cells` of those to learn from, and of those to validate on."""
        return train_validation_split(len(cells), train_size=train_size, labels=labels, seed=seed)

    @abstractmethod
    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        """Arguments of :meth:`train` where the user leaves them open: ``max_epochs``, ``batch_size``, ``lr``.

        And those for which :class:`scssl.train.TrainOptions` has other values than the model.
        """

    @explained
    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        lr_schedule: Literal["constant", "cosine", "step"] | None = None,
        early_stopping: bool | None = None,
        patience: int | None = None,
        train_size: float | None = None,
        hold_out: Mapping[str, str | Sequence[str]] | None = None,
        balance_key: str | None = None,
        balance_weights: Mapping[str, float] | None = None,
        separate_key: str | None = None,
        n_output_genes: int | Literal["auto"] | None = "auto",
        gradient_clip: float | Literal["auto"] | None = "auto",
        max_steps: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        num_nodes: int = 1,
        strategy: str = "auto",
        precision: str | None = None,
        compile: bool = False,
        rng: RNG = 0,
        checkpoint_dir: str | Path | None = None,
        checkpoint_every: int | str | None = None,
        resume_from: str | Path | None = None,
        logger: Literal["csv", "tensorboard", "wandb", "mlflow"] | Logger | None = None,
        progress: bool | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        """Train on the cells of the model's AnnData.

        Ends with the weights of the epoch with the lowest validation loss. Ctrl-C ends training
        after the current step and keeps the best weights so far; pressed twice, it stops at once, keeps
        them too, and is raised. So is SIGTERM, after the current step: as ``SystemExit``, or what a
        handler of your own makes of it. With `checkpoint_dir` the state after that step is written first;
        SIGUSR1 has it written too, and training goes on. Handlers of your own are back afterwards.
        After an error the model is what it was before. Called again, it goes on from the present weights
        with a new optimiser. The split is written to ``adata.uns["scssl_split"]``.

        Parameters
        ----------
        max_epochs
            Passes over the training cells at most; by default from the number of cells.
        batch_size
            Cells per step, of each process; by default from the number of cells.
        lr, weight_decay
            Learning rate and weight decay of AdamW; defaults by model.
        lr_schedule
            ``"constant"``, ``"cosine"`` with linear warm-up over 5 % of the steps, or ``"step"``,
            times 0.9 every two epochs as in :cite:p:`Richter2025`.
        early_stopping
            Stop when the validation loss has not improved for `patience` epochs; by default yes,
            except for presets of runs that had none.
        patience
            Epochs without improvement before training stops.
        train_size
            Share of the cells to train on, 0.9 by default; the others are the validation set. With
            1 there is no validation set, no early stopping, and the last weights are kept.
        hold_out
            Cells to validate on instead: all of some categories of a column, such as
            ``{"dataset": ["lung"]}``; of a store 50,000 of them at most. None of them is learnt from.
        balance_key
            Column of whose categories every batch has as many cells. An epoch has as many cells as
            otherwise: those of rare categories come several times.
        balance_weights
            Weight of categories of `balance_key`, such as ``{"lung": 2.0}`` for twice as many cells of it; 1 of
            those that are not named.
        separate_key
            Column of whose categories every batch has one: its cells are of one data set, for instance.
        n_output_genes
            Genes that the decoder predicts per step: `None` for all, a number for an unbiased
            sample of them that is drawn anew each step, ``"auto"`` for 2,048 where training is on
            one CPU and the output layer has at least 6 million weights (below that, a step on all
            genes is cheap). Validation is always on all genes.
        gradient_clip
            Largest norm of the gradient; `None` for none. ``"auto"``: that of the preset, and none
            without one.
        max_steps
            Steps at most, by default as many as the epochs have; then `max_epochs` is no limit unless it is given. What a
            run that ends within an epoch has had of it counts as an epoch, and is validated.
        accelerator
            ``"cpu"``, ``"gpu"``, or ``"auto"`` for a GPU where there is one.
        devices
            Number or list of devices, each of which a process trains on. ``"auto"``: those of the processes
            that torchrun or srun has started, or one.
        num_nodes
            Number of machines, where neither has started the processes.
        strategy
            Of Lightning's trainer; of several processes ``"ddp"``, whatever they are, gives what one with
            the batches of all gives.
        precision
            `None` for float32, of which a GPU computes matrix products in TF32; ``"32-true"`` for float32 in these
            too; ``"bf16-mixed"`` for bfloat16 products.
        compile
            Whether to compile the hidden layers with :func:`torch.compile`.
        rng
            Seed of the split, the order of the cells, masks and dropout.
        checkpoint_dir
            Folder to which the state of training is written after each epoch, to resume from.
        checkpoint_every
            How often it is written within epochs too: after so many steps, or as text after a time such as
            ``"10min"``. By default only where the run is interrupted.
        resume_from
            Folder of an interrupted run. It goes on with the next step, exactly as it would have.
            With a cosine schedule `max_epochs` and `max_steps` have to be those of the run.
        logger
            Where hyper-parameters, the values of each epoch and the loss of every 50th step are told besides the
            history: ``"csv"`` and ``"tensorboard"``, in ``scssl_logs`` of `checkpoint_dir`, or of the
            working directory without one; ``"mlflow"``, there in ``mlflow.db`` unless MLFLOW_TRACKING_URI names
            a server; ``"wandb"``, in the project ``scssl``; or a logger of Lightning. None by default.
        progress
            Whether to show progress; by default as in ``scssl.settings``.
        callbacks
            Further Lightning callbacks.

        Raises
        ------
        ValueError
            If an argument is out of range, the data have changed since they were set up, or
            `resume_from` belongs to another run.
        FloatingPointError
            If the loss stops being finite.
        """
        arguments = check_arguments({k: v for k, v in locals().items() if k != "self"})
        check_destination(self._or_own(None), SPLIT)
        folder = arguments["resume_from" if checkpoint_dir is None else "checkpoint_dir"]
        last: FitResult | None = None
        with undone_on_error(self), closing(self._rounds(arguments)) as rounds:
            for of_round in rounds:
                last = self._train_once({**arguments, "run_dir": folder, **of_round})
        if last is not None and last.stopped_by == "interrupt":
            self._warn_of_interrupt(last.n_steps_within, folder)
            if last.signal:
                pass_on(last.signal)

    def _rounds(self, arguments: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Arguments of :meth:`train` that are different in each round, of which most models have one."""
        yield {}

    def _train_once(self, arguments: Mapping[str, Any]) -> FitResult:
        """One round of training; arguments of :meth:`train`, and where it is resumed from."""
        data = self._training_data()
        rng, devices, num_nodes = (arguments[name] for name in ("rng", "devices", "num_nodes"))
        seed = as_seed(rng)
        if self._learns_all_genes and data.alignment is not None and data.alignment.n_missing:
            raise ValueError(
                f"{data.alignment.n_missing:,} genes of the model are not in `adata`, and would be "
                "learnt as zeros. Train on data that has them, or build a new model on this data. "
                f"{data.alignment.report()}"
            )
        check_distributed(devices, num_nodes, arguments["strategy"], rng)
        n = n_processes(devices, num_nodes)
        hold_out, balance, separate = (
            arguments[name] for name in ("hold_out", "balance_key", "separate_key")
        )
        if hold_out:
            data.hold_out(hold_out)
        if balance is not None or separate is not None:
            weights = arguments["balance_weights"]
            data.batch_by(balance or separate, one_group=balance is None, weights=weights)
        rows, held_out, train_size = self._divided(
            data, arguments["train_size"], derive_seed(seed, "split")
        )
        chosen = TrainOptions.chosen(self._train_defaults(len(rows)), arguments)
        # A batch is that of all processes.
        size = chosen.batch_size * n
        # Batches of equal size, or up to half of a small data set would be left out of each epoch.
        # Where others fill a batch it stays as large: of a few labelled cells it would have no others.
        if not data.fills_context or data.context is None:
            n_batches = -(-len(rows) // size)
            size = -(-len(rows) // n_batches)
            chosen = replace(chosen, batch_size=-(-size // n))
        n_output = resolve_output_genes(
            arguments["n_output_genes"],
            len(self.genes),
            self.module.output_width,
            arguments["accelerator"],
        )
        # Validation cells are no partners, or training would see them.
        data.restrict_partners(rows)
        training = data.loader(rows, size, role="training", seed=derive_seed(seed, "order"))
        validation = None
        if len(held_out):
            validation = data.loader(held_out, max(size, 512), role="validation")
        run = {
            "seed": seed,
            "data": data.fingerprint,
            "setup": self.setup.to_dict(),
            "genes": self.genes.hash,
            "train_size": train_size,
            "precision": arguments["precision"],
            "n_output_genes": n_output,
            "hold_out": hold_out,
            "balance_key": balance,
            "balance_weights": arguments["balance_weights"],
            "separate_key": separate,
            "model": f"{type(self).__name__}({self._config()})",
            # By however many processes.
            **chosen.identity(),
            "batch_size": size,
            **self._before_training(
                data, rows, chosen, resumed=arguments["resume_from"] is not None
            ),
        }
        started = time.perf_counter()
        resume, folder, progress = (
            arguments[name] for name in ("resume_from", "checkpoint_dir", "progress")
        )
        folder = resume if folder is None else folder
        options = FitOptions(
            **vars(chosen),
            **{
                name: arguments[name]
                for name in (
                    "accelerator",
                    "strategy",
                    "precision",
                    "compile",
                    "checkpoint_every",
                    "run_dir",
                )
            },
            seed=seed,
            devices=devices,
            num_nodes=num_nodes,
            n_output_genes=n_output,
            fresh=not self.is_trained_,
            checkpoint_dir=folder,
            resume_from=resume,
            n_epochs_before=self._n_epochs(),
            progress=settings.progress if progress is None else progress,
            run=run,
            logger=arguments["logger"],
            hyperparameters={
                "model": type(self).__name__,
                **self._config(),
                **vars(chosen),
                "n_cells": len(rows) + len(held_out),
                **{
                    name: run[name]
                    for name in ("seed", "train_size", "n_output_genes", "precision")
                },
            },
            callbacks=arguments["callbacks"],
        )
        result = fit(self.module, training, validation, options)
        self.history_ = append_history(self.history_, result.n_epochs_before, result.history)
        self.is_trained_ = True
        self.train_indices_, self.validation_indices_ = rows, held_out
        data.adata.uns[SPLIT] = {
            "train": rows,
            "validation": held_out,
            "train_size": train_size,
            "seed": seed,
        }
        self.training_ = {
            **vars(chosen),
            "n_output_genes": n_output,
            "seed": seed,
            "train_size": train_size,
            "n_cells": len(rows) + len(held_out),
            "epochs": self._n_epochs(),
            "steps": result.n_steps + int(self.training_.get("steps", 0)),
            "best_epoch": result.best_epoch + result.n_epochs_before,
            "best_loss": result.best_loss,
            "stopped_by": result.stopped_by,
            **self._after_training(data, rows, held_out),
            "seconds": round(time.perf_counter() - started, 1),
        }
        return result

    def _warn_of_interrupt(self, n_steps: int, folder: Path | None) -> None:
        done, weights = self.training_["epochs"], "those that it had then"
        if len(self.validation_indices_) and done and self.module.loss_ranks_epochs:
            weights = f"those of epoch {self.training_['best_epoch']}"
        text = f"Training was interrupted after {done} full epochs"
        text += f" and {n_steps:,} steps" if n_steps else ""
        text += f"; the weights are {weights}."
        # Of who pressed Ctrl-C twice there may be none.
        if folder is not None and any(folder.rglob(CHECKPOINT_NAME)):
            text += (
                f" The state of the run is in {folder}. To go on with it: "
                f"`resume_from={str(folder)!r}`"
            )
        warn(text)

    def _n_epochs(self) -> int:
        return len(next(iter(self.history_.values()))) if self.history_ else 0

    # --- saving and loading --------------------------------------------------------------------

    @property
    def encoder_hash(self) -> str:
        """Digest of the weights that embeddings are made with.

        It is the same for models that embed alike: a head, a decoder or a projector makes no
        difference to it, nor does saving and loading. Where cells see each other, which do is part of it.
        """
        return encoder_digest(self.module)

    @classmethod
    def load_registry(cls, dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Setup of a saved model, as scvi-tools records it.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        prefix
            Not used.
        """
        registry: dict[str, Any] = read_bundle(dir_path).config["registry"]
        return registry

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the setup of a saved model.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        prefix
            Not used.
        """
        print(read_bundle(dir_path).config["registry"]["setup_args"])

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Not offered: it would unpickle a file.

        Raises
        ------
        BundleError
            Always.
        """
        raise BundleError("scssl reads no pickles. Load the model with the program that saved it.")

    def save(
        self, dir_path: str | Path, overwrite: bool = False, save_anndata: bool = False
    ) -> None:
        """Save the model as a folder.

        The folder holds ``model.safetensors``, ``config.json`` and ``genes.json``: weights,
        arguments, how data are read, versions, training summary and history, and the genes. It is
        written as a whole or not at all.

        Parameters
        ----------
        dir_path
            Folder to write.
        overwrite
            Replace a model that is there.
        save_anndata
            Also write the model's data to the folder: an AnnData as ``adata.h5ad``, a MuData as
            ``mdata.h5mu``.

        Raises
        ------
        ValueError
            If the folder exists and may not be replaced, or there is no AnnData to save.

        Examples
        --------
        >>> import scssl, tempfile
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
        >>> model = scssl.model.MaskedAutoencoder(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> model.save(folder)
        >>> loaded = scssl.model.MaskedAutoencoder.load(folder)
        >>> bool(
        ...     (loaded.get_latent_representation(adata) == model.get_latent_representation()).all()
        ... )
        True
        """
        if save_anndata and self.adata is None:
            raise ValueError("The model has no AnnData to save. Pass `save_anndata=False`.")
        config = {
            "class": type(self).__name__,
            "arguments": self._saved_config(),
            "input": self.setup.input_kind,
            "registry": without_genes(self.registry_),
            "trained": bool(self.is_trained_),
            "training": self.training_,
            "history": history_lists(self.history_),
            "versions": {"python": platform.python_version(), **versions()},
        }
        tensors = {name: t.detach().cpu() for name, t in self.module.state_dict().items()}
        write_bundle(
            dir_path,
            tensors=tensors,
            config=config,
            genes=self.genes.to_dict(),
            overwrite=overwrite,
            write_others=self._write_data if save_anndata else None,
        )

    def _write_data(self, folder: Path) -> None:
        adata = self._adata
        if not isinstance(adata.obs, pd.DataFrame):
            # anndata writes no tables that are read lazily; matrices it writes block by block.
            def read(value: Any) -> Any:
                return value.to_memory() if hasattr(value, "to_memory") else value

            rest: dict[str, Any] = {
                name: {key: read(one) for key, one in getattr(adata, name).items() if key}
                for name in ("layers", "obsm", "varm", "obsp", "varp", "uns")
            }
            adata = AnnData(adata.X, obs=read(adata.obs), var=read(adata.var), **rest)
        adata.write_h5ad(folder / "adata.h5ad")

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        *,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a model from a folder.

        Nothing in the folder is executed or unpickled.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        adata
            Data to attach to the model; it need not be set up. Without it, pass data when embedding.
        device
            Where to put the weights.

        Raises
        ------
        BundleError
            If the folder is missing, incomplete, altered, from another program, from a newer
            version, or holds a model of another class.
        """
        bundle = read_bundle(dir_path)
        config = bundle.config
        name = config.get("class")
        try:
            model_class: Any = get_model_class(str(name))
        except ValueError as error:
            raise BundleError(
                f"{dir_path} holds a model that this scssl does not have. {error}"
            ) from error
        if not issubclass(model_class, cls):
            raise BundleError(
                f"{dir_path} holds a {name}, not a {cls.__name__}. Load it with "
                f'`scssl.model.{name}.load("{dir_path}")`.'
            )
        try:
            genes = GeneVocabulary.from_dict(bundle.genes)
            registry, arguments = with_genes(config["registry"], genes), config["arguments"]
            model = build_fitting(
                lambda: model_class._from_config(registry, arguments), bundle.tensors, len(genes)
            )
            model.genes = genes
            if config["input"] != model.setup.input_kind:
                raise ValueError(f"the input is {config['input']!r}, and is not in the setup")
            model.module.load_state_dict(bundle.tensors, strict=True)
            model.is_trained_ = bool(config["trained"])
            model.training_ = dict(config["training"])
            model.history_ = history_frames(config["history"])
            # It reads what training left.
            repr(model)
        except MALFORMED as error:
            what = f"{type(error).__name__}: {error}"
            raise BundleError(
                f"{dir_path} does not fit the model it says it holds ({name}): {what}"
            ) from error
        model.module.to(device).eval()
        if adata is not None:
            model.attach(adata)
        loaded: Self = model
        return loaded

    # --- the Hugging Face Hub ------------------------------------------------------------------

    @explained
    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a model from the Hugging Face Hub or from a folder.

        What is fetched are ``config.json``, ``genes.json`` and ``model.safetensors``, kept in the
        cache of huggingface_hub and checked against each other; with the environment variable
        ``HF_HUB_OFFLINE=1`` only the cache is used. Nothing in them is executed or imported: the
        class is one of :func:`scssl.model.list_models`.

        Parameters
        ----------
        source
            Repository, ``"owner/name"``, or a folder that :meth:`save` wrote. A folder goes first.
        revision
            Branch, tag or commit of the repository; the newest of the main branch by default.
        adata
            Data to attach to the model, as in :meth:`load`.
        device
            Where to put the weights.
        token
            Access token, for private models; that of ``hf auth login`` by default.

        Raises
        ------
        FileNotFoundError
            If there is no such repository or revision.
        PermissionError
            If the repository is gated, or the token is not accepted.
        ConnectionError
            If the hub cannot be reached and the model is not in the cache.
        BundleError
            If there is no such folder, or no sound model of this class.
        ValueError
            If `revision` is given for a folder.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.SSLModel.from_pretrained("owner/name")  # doctest: +SKIP
        """
        if not is_repo_id(source) or as_path(source, "source").exists():
            if revision is not None:
                raise ValueError(f"{source} is a folder: leave `revision` out.")
            return cls.load(source, adata, device=device)
        repo_id = str(source)
        with tempfile.TemporaryDirectory(prefix="scssl-") as name:
            # Resolved, as the errors name it: temporary folders are links on some systems.
            folder = Path(name).resolve()
            try:
                collect(repo_id, folder, revision=revision, token=token)
            except (ConnectionError, FileNotFoundError) as error:
                raise type(error)(
                    f"There is no folder {repo_id}, and as a model of the hub: {error}"
                ) from error
            with renamed(folder, repo_id):
                loaded = cls.load(folder, device=device)
        if adata is not None:
            loaded.attach(adata)
        return loaded

    def make_card(
        self, repo_id: str = "owner/name", card: str | Path | Mapping[str, Any] | None = None
    ) -> str:
        """Text of the card that :meth:`push_to_hub` would publish with the model.

        Parameters
        ----------
        repo_id
            Where the model will be; it is in the lines that show how to use it.
        card
            As in :meth:`push_to_hub`.

        Returns
        -------
        Markdown, with metadata for the hub on top.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
        >>> model = scssl.model.MaskedAutoencoder(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> text = model.make_card("owner/name", {"license": "cc-by-4.0", "species": "human"})
        >>> text.splitlines()[2]
        'license: cc-by-4.0'
        """
        return make_card(card_facts(self), repo_id, card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        card: str | Path | Mapping[str, Any] | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish the model on the Hugging Face Hub.

        Published are the files of :meth:`save` and a card, in one commit. No cells are, but the
        names of genes, of the columns that were set up, and of the categories in them: look at
        ``model.registry`` if donors are among them.

        Parameters
        ----------
        repo_id
            Repository, ``"owner/name"``; made if there is none. A model of scssl that is there
            becomes an earlier revision.
        private
            Make the repository private. One that exists stays as it is, and is refused if it is
            public.
        revision
            Branch to push to, made if there is none; the main branch by default.
        card
            `None`: a card is generated. A dict fills it: ``description``, ``species`` (one or
            several), ``data``, ``license`` (an identifier of the hub such as ``"cc-by-4.0"``),
            ``evaluation`` (DataFrame or dict), ``limits`` (one or several). A string is the card
            itself, a :class:`pathlib.Path` the file of it. :meth:`make_card` shows the result.
        token
            Access token that may write; that of ``hf auth login`` by default.
        commit_message
            Message of the commit.

        Returns
        -------
        Address of the commit.

        Raises
        ------
        ValueError
            If the model is not trained, `card` has an unknown field, the repository holds a model of
            another program, or it is public and should be private.
        PermissionError
            If the token may not write to the repository.
        ConnectionError
            If the hub cannot be reached.

        Examples
        --------
        >>> model.push_to_hub("owner/name", card={"license": "cc-by-4.0"})  # doctest: +SKIP
        """
        if not self.is_trained_:
            raise ValueError(
                "The model is not trained, so not published. Train it first: `model.train()`"
            )
        text = self.make_card(repo_id, card)
        if not has_tag(text):
            warn(
                "The card has no `library_name: scssl` in its metadata, so "
                "scssl.hub.list_models will not find the model. Its make_card shows how."
            )
        with tempfile.TemporaryDirectory(prefix="scssl-") as folder:
            self.save(Path(folder) / "model")
            return push_bundle(
                Path(folder) / "model",
                repo_id,
                card=text,
                private=private,
                revision=revision,
                token=token,
                commit_message=commit_message,
            )

    # --- what it says of itself ----------------------------------------------------------------

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
