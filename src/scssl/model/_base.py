"""What all models of the package have in common."""

from __future__ import annotations

import logging
import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
)
from scvi.model.base import BaseModelClass

from scssl._errors import ScsslWarning
from scssl._random import RNG, as_seed, derive_seed
from scssl._settings import settings
from scssl.data import CellLoader, GeneVocabulary, open_rows, train_validation_split
from scssl.module import SSLModule
from scssl.train import FitOptions, fit

from ._persistence import PersistenceMixin
from ._setup import DataSetup, check_anndata, fingerprint, inspect, make_setup, matrix_of

_LOGGER = logging.getLogger("scssl")
_SETUP = "scssl_setup"
_SPLIT = "scssl_split"


class SSLModel(PersistenceMixin, BaseModelClass):
    """Base of all models: set up an AnnData, train, embed, save.

    Subclasses build ``module`` and say in :meth:`_train_defaults` how they are trained where
    the user leaves it open. Everything else is shared.
    """

    module: SSLModule
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None

    def __init__(
        self, adata: AnnData | None = None, registry: dict[str, Any] | None = None
    ) -> None:
        super().__init__(adata, registry)
        self.setup = DataSetup.from_dict(self.registry_[_SETUP]["setup"])
        names = self.registry_["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
        self.genes = GeneVocabulary(names["column_names"])
        self.training_: dict[str, Any] = {}

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        input: Literal["auto", "counts", "lognorm"] = "auto",
        *,
        target_sum: float = 1e4,
        **kwargs: Any,
    ) -> None:
        """Check an AnnData and say where things are in it.

        The whole matrix is looked at once. scvi-tools keeps what it registers in
        ``adata.uns["_scvi_uuid"]``, ``adata.uns["_scvi_manager_uuid"]``, ``adata.obs["_scvi_batch"]``,
        ``adata.obs["_scvi_labels"]`` and, for covariates, in ``adata.obsm["_scvi_extra_..."]``;
        nothing else of `adata` is changed.

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
            names are duplicated; if a column is not what it is used for.
        KeyError
            If a layer or column does not exist.
        TypeError
            If `adata` is not an AnnData.

        Examples
        --------
        >>> import anndata, numpy as np, scssl
        >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 20)).astype("f4"))
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata, input="counts")
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        categorical = list(categorical_covariate_keys or [])
        continuous = list(continuous_covariate_keys or [])
        setup, stats = make_setup(
            adata,
            layer=layer,
            batch_key=batch_key,
            labels_key=labels_key,
            categorical_keys=categorical,
            continuous_keys=continuous,
            input=input,
            target_sum=target_sum,
        )
        fields: list[Any] = [
            LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False, correct_data_format=False),
            CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, categorical),
            NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, continuous),
        ]
        if labels_key is None or not adata.obs[labels_key].isna().any():
            # Labels may be missing for some cells, which scvi-tools' field does not allow.
            fields.insert(2, CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key))
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        with warnings.catch_warnings():
            # Of small categories: nothing is estimated per category here.
            warnings.filterwarnings("ignore", message="Category .* has fewer than 3 cells")
            manager.register_fields(adata, **kwargs)
        manager.registry[_SETUP] = {
            "setup": setup.to_dict(),
            "fingerprint": fingerprint(adata, stats),
        }
        cls.register_manager(manager)

    @abstractmethod
    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        """Arguments of :meth:`train` where the user leaves them open."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        lr_schedule: Literal["constant", "cosine"] | None = None,
        early_stopping: bool = True,
        patience: int | None = None,
        train_size: float = 0.9,
        n_output_genes: int | Literal["auto"] | None = "auto",
        gradient_clip: float | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        strategy: str = "auto",
        precision: str | None = None,
        compile: bool = False,
        rng: RNG = 0,
        checkpoint_dir: str | Path | None = None,
        resume_from: str | Path | None = None,
        progress: bool | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        """Train on the cells of the model's AnnData.

        Ends with the weights of the epoch with the lowest validation loss. Ctrl-C ends training
        after the current step and keeps the best weights so far; pressed twice, it stops at once.
        Called again, it goes on from the present weights with a new optimiser. The split is written
        to ``adata.uns["scssl_split"]``.

        Parameters
        ----------
        max_epochs
            Passes over the training cells at most; by default from the number of cells.
        batch_size
            Cells per step; by default from the number of cells.
        lr, weight_decay
            Of AdamW; defaults by model.
        lr_schedule
            ``"constant"``, or ``"cosine"`` with linear warm-up over 5 % of the steps.
        early_stopping
            Stop when the validation loss has not improved for `patience` epochs.
        patience
            Epochs without improvement before training stops.
        train_size
            Share of the cells to train on; the others are the validation set. With 1 there is no
            validation set, no early stopping, and the last weights are kept.
        n_output_genes
            Genes that the decoder predicts per step: `None` for all, a number for an unbiased
            sample of them that is drawn anew each step, ``"auto"`` for 2,048 where there are at
            least twice as many genes and training is on the CPU. Validation is always on all genes.
        gradient_clip
            Largest norm of the gradient.
        accelerator
            ``"cpu"``, ``"gpu"``, or ``"auto"`` for a GPU where there is one.
        devices
            Number or list of devices; one by default.
        strategy
            Of Lightning's trainer, such as ``"ddp"``.
        precision
            `None` for float32, ``"bf16-mixed"`` for bfloat16 products.
        compile
            Whether to compile the hidden layers with :func:`torch.compile`.
        rng
            Seed of the split, the order of the cells, masks and dropout.
        checkpoint_dir
            Folder to which the state of training is written after each epoch, to resume from.
        resume_from
            Folder of an interrupted run. It goes on with the next epoch, exactly as it would have.
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
        data = self._read(None).with_covariates()
        if data.n_cells < 3:
            msg = f"Training needs at least 3 cells, `adata` has {data.n_cells}."
            raise ValueError(msg)
        seed = as_seed(rng)
        labels = None if self.setup.labels_key is None else data.adata.obs[self.setup.labels_key]
        rows, held_out = train_validation_split(
            data.n_cells, train_size=train_size, labels=labels, seed=derive_seed(seed, "split")
        )
        given = {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "lr": lr,
            "weight_decay": weight_decay,
            "lr_schedule": lr_schedule,
            "patience": patience,
        }
        chosen = self._train_defaults(len(rows)) | {k: v for k, v in given.items() if v is not None}
        _check_training(chosen)
        chosen["batch_size"] = min(chosen["batch_size"], len(rows))
        n_output = _n_output_genes(n_output_genes, len(self.genes), accelerator)
        size = chosen.pop("batch_size")
        training = data.loader(
            rows, size, shuffle=True, seed=derive_seed(seed, "order"), drop_last=True
        )
        validation = data.loader(held_out, max(size, 256)) if len(held_out) else None
        run = {
            "seed": seed,
            "batch_size": size,
            "number of cells": data.n_cells,
            "genes": self.genes.hash,
            "train_size": train_size,
            "n_output_genes": n_output,
            "model": f"{type(self).__name__}({self._config()})",
            **{k: v for k, v in chosen.items() if k in ("lr", "weight_decay", "lr_schedule")},
        }
        if chosen["lr_schedule"] == "cosine":
            run["max_epochs"] = chosen["max_epochs"]
        started = time.perf_counter()
        result = fit(
            self.module,
            training,
            validation,
            FitOptions(
                **chosen,
                seed=seed,
                early_stopping=early_stopping,
                n_output_genes=n_output,
                gradient_clip=gradient_clip,
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                precision=precision,
                compile=compile,
                fresh=not self.is_trained_,
                checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
                resume_from=None if resume_from is None else Path(resume_from),
                progress=settings.progress if progress is None else progress,
                run=run,
                callbacks=tuple(callbacks),
            ),
        )
        new = {k: pd.DataFrame({k: v}) for k, v in result.history.items()}
        self.history_ = _append(self.history_ if resume_from is None else None, new)
        self.is_trained_ = True
        self.train_indices_, self.validation_indices_ = rows, held_out
        data.adata.uns[_SPLIT] = {
            "train": rows,
            "validation": held_out,
            "train_size": train_size,
            "seed": seed,
        }
        self.training_ = {
            **chosen,
            "batch_size": size,
            "n_output_genes": n_output,
            "seed": seed,
            "train_size": train_size,
            "n_cells": data.n_cells,
            "epochs": len(next(iter(new.values()))) if new else 0,
            "best_epoch": result.best_epoch,
            "stopped_by": result.stopped_by,
            "seconds": round(time.perf_counter() - started, 1),
        }
        if result.stopped_by == "interrupt":
            _LOGGER.warning(
                "Training was interrupted in epoch %d; the model has its best weights so far.",
                self.training_["epochs"],
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
        if not self.is_trained_:
            msg = "The model is not trained: embeddings are random projections. Call model.train()."
            warnings.warn(msg, ScsslWarning, stacklevel=3)
        rows = data.rows(indices)
        return self._apply(data, rows, batch_size, self.module.embed, self.n_latent)

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
            msg = f"`batch_size` must be at least 1, found {batch_size}."
            raise ValueError(msg)
        out = np.empty((len(rows),) if width is None else (len(rows), width), dtype=np.float32)
        self.module.eval()
        device, start = self.module.device, 0
        for batch in data.loader(rows, batch_size or 2048) if len(rows) else ():
            found = function({name: value.to(device) for name, value in batch.items()})
            out[start : start + len(found)] = found.float().cpu().numpy()
            start += len(found)
        return out

    def _read(self, adata: AnnData | None, *, min_overlap: float = 0.5) -> CellReader:
        """Check a data set against the model and open it."""
        own = adata is None or adata is self._adata
        if adata is None:
            adata = self._adata
        if adata is None:
            msg = "The model was loaded without an AnnData. Pass one: adata=..."
            raise ValueError(msg)
        check_anndata(adata)
        recorded = self.registry_[_SETUP].get("fingerprint")
        if own and recorded is not None:
            _check_shape(adata, recorded)
        alignment = self.genes.align(adata.var_names, min_overlap=min_overlap)
        stats, _ = inspect(adata, self.setup.layer, self.setup.input_kind)
        if own and recorded is not None:
            _check_unchanged(fingerprint(adata, stats), recorded)
        if alignment.n_missing:
            _LOGGER.info(alignment.report())
        return CellReader(self.setup, adata, None if alignment.is_identity else alignment)

    def __repr__(self) -> str:
        lines = [
            f"{type(self).__name__}: {self._model_summary_string}",
            f"  genes: {len(self.genes):,} ({self.genes.id_type}), input {self.setup.input_kind}",
        ]
        if self.is_trained_:
            done = self.training_
            history = self.history_ or {}
            loss = history.get("validation_loss", history.get("train_loss"))
            best = float(loss.iloc[:, 0].min()) if loss is not None and len(loss) else float("nan")
            lines.append(
                f"  trained: {done['epochs']} epochs on {done['n_cells']:,} cells "
                f"(best epoch {done['best_epoch']}, loss {best:.4g}, by {done['stopped_by']})"
            )
        else:
            lines.append("  not trained")
        return "\n".join(lines)


class CellReader:
    """The cells of one AnnData as a model wants them."""

    def __init__(self, setup: DataSetup, adata: AnnData, alignment: Any) -> None:
        self.setup, self.adata, self.alignment = setup, adata, alignment
        self.n_cells = adata.n_obs
        self._source = open_rows(matrix_of(adata, setup.layer), where=setup.where)
        self.obs: dict[str, np.ndarray] = {}

    def with_covariates(self) -> Self:
        """Read the columns too that a decoder is told."""
        for key in self.setup.covariate_keys():
            self.obs[key] = self.setup.codes(self.adata, key)
        if self.setup.continuous_keys:
            self.obs["continuous"] = self.setup.continuous(self.adata)
        return self

    def loader(self, rows: np.ndarray, batch_size: int, **kwargs: Any) -> CellLoader:
        """Batches of these cells."""
        return CellLoader(
            self._source,
            rows,
            batch_size=batch_size,
            alignment=self.alignment,
            input_kind=self.setup.input_kind,
            target_sum=self.setup.target_sum,
            obs=self.obs,
            **kwargs,
        )

    def rows(self, indices: Any) -> np.ndarray:
        """Row numbers of `indices`: numbers, a mask or cell names."""
        if indices is None:
            return np.arange(self.n_cells)
        indices = np.asarray(indices)
        if not indices.size:
            return np.zeros(0, dtype=np.int64)
        if indices.dtype.kind == "b":
            if indices.shape != (self.n_cells,):
                msg = f"A mask needs one value per cell ({self.n_cells:,}), found {indices.shape}."
                raise ValueError(msg)
            return np.flatnonzero(indices)
        if indices.dtype.kind in "OUST":
            if not self.adata.obs_names.is_unique:
                msg = (
                    "Cell names are not unique: pass row numbers, or adata.obs_names_make_unique()"
                )
                raise ValueError(msg)
            found = self.adata.obs_names.get_indexer(indices.astype(str))
            if (found < 0).any():
                absent = indices[found < 0]
                msg = f"{len(absent)} names are not in adata.obs_names, such as {str(absent[0])!r}."
                raise KeyError(msg)
            return found
        if indices.dtype.kind not in "iu":
            msg = f"`indices` must be row numbers, a mask or names, found {indices.dtype}."
            raise TypeError(msg)
        if indices.min() < -self.n_cells or indices.max() >= self.n_cells:
            worst = indices.max() if indices.max() >= self.n_cells else indices.min()
            msg = f"`indices` has {worst}, but `adata` has {self.n_cells:,} cells."
            raise IndexError(msg)
        return np.where(indices < 0, indices + self.n_cells, indices)


def _check_shape(adata: AnnData, recorded: Mapping[str, Any]) -> None:
    _check_unchanged({"cells": adata.n_obs, "genes": adata.n_vars}, recorded)


def _check_unchanged(now: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    changed = [
        name
        for name, value in now.items()
        if value != recorded[name]
        # Sums depend a little on how a matrix is stored.
        and not (isinstance(value, float) and np.isclose(value, recorded[name], rtol=1e-4))
    ]
    if changed:
        what = "; ".join(f"{name}: {recorded[name]} then, {now[name]} now" for name in changed)
        msg = (
            f"`adata` has changed since setup_anndata ({what}). Set it up again and make a new "
            "model, or pass the changed data as adata=... to embed it."
        )
        raise ValueError(msg)


def _check_training(chosen: Mapping[str, Any]) -> None:
    for name in ("max_epochs", "batch_size", "patience"):
        value = chosen[name]
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            msg = f"`{name}` must be a whole number of at least 1, found {value!r}."
            raise ValueError(msg)
    if not chosen["lr"] > 0 or not chosen["weight_decay"] >= 0:
        msg = (
            f"`lr` must be positive and `weight_decay` not negative, found {chosen['lr']} and "
            f"{chosen['weight_decay']}."
        )
        raise ValueError(msg)
    if chosen["lr_schedule"] not in ("constant", "cosine"):
        msg = f"`lr_schedule` must be 'constant' or 'cosine', found {chosen['lr_schedule']!r}."
        raise ValueError(msg)


def _n_output_genes(asked: Any, n_genes: int, accelerator: str) -> int | None:
    if asked is None or (not isinstance(asked, str) and asked == n_genes):
        return None
    if asked == "auto":
        on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
        return _AUTO_OUTPUT_GENES if on_cpu and n_genes >= 2 * _AUTO_OUTPUT_GENES else None
    if isinstance(asked, (bool, str)) or not 1 <= asked <= n_genes:
        msg = f'`n_output_genes` must be "auto", None or 1 to {n_genes:,}, found {asked!r}.'
        raise ValueError(msg)
    return int(asked)


_AUTO_OUTPUT_GENES = 2048


def _append(
    before: Mapping[str, pd.DataFrame] | None, new: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """History of a run after that of the runs before it, epochs numbered through."""
    out = {}
    for name, frame in new.items():
        parts = [before[name], frame] if before is not None and name in before else [frame]
        out[name] = pd.concat(parts, ignore_index=True)
        out[name].index.name = "epoch"
    return out
