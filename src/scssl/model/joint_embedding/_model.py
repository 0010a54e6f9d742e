"""What all joint-embedding models have in common."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_type_hints

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scssl._checks import check_choice, check_number, check_whole, check_widths, table_of
from scssl._errors import warn
from scssl._random import RNG
from scssl.augment import Augmentation
from scssl.data import GeneAlignment, GeneVocabulary, PartnerWalks
from scssl.data.keys import PRESENT, category_key
from scssl.data.matrix import columns_of, inverse_document_frequency
from scssl.model.base import (
    SETUP,
    Backbone,
    CellReader,
    DataSetup,
    SetupArgument,
    SSLModel,
    StartsFromEncoder,
    StoresMixin,
    checked,
    copied,
    documented,
    explained,
    list_options,
)
from scssl.nn import Activation, Fusion
from scssl.train import TrainOptions

from ._mudata import make_mudata_setup, read_mudata, stripped
from ._network import JointEmbeddingModule
from ._views import (
    Views,
    choose_views,
    config_of,
    graph_tables,
    report_coverage,
    say_of_batches,
    views_from_config,
)

_LOGGER = logging.getLogger("scssl")
_NO_COVARIATES = (
    "has no decoder to be told covariates; to learn to ignore a batch, mix cells across batches "
    "(scssl.augment.NeighborMix among its augmentations)"
)


class JointEmbedding(StartsFromEncoder, StoresMixin):
    """Base of models that learn by comparing two views of each cell.

    Each cell is changed twice at random (``scssl.augment``); an encoder and a small projector map
    both views, and the objective brings them together while it keeps the embeddings from becoming
    all the same. The embedding is what the encoder makes of the unchanged cell; the projector is left
    aside.

    Of a MuData every modality has an encoder of its own, and their embeddings are fused before the
    projector, in training as afterwards (:class:`scssl.nn.MultiEncoder`).

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata` or, as a MuData, with :meth:`setup_mudata`.
    hidden_dims
        Widths of the encoder's hidden layers; (128,) as in :cite:p:`Ovcharenko2025`.
    n_latent
        Width of the embedding, 64 as in :cite:p:`Ovcharenko2025`; of a MuData, that of a modality's
        embedding.
    dropout
        Share of the units of the embedding dropped in training, 0 by default.
    activation
        ``"relu"`` (default), ``"selu"``, ``"gelu"``, ``"silu"`` or ``"leaky_relu"``.
    batch_norm
        Whether every layer of the encoder is followed by batch normalisation, of which embeddings use
        the running statistics. The encoder of :class:`MaskedAutoencoder` is
        ``hidden_dims=(256, 128), batch_norm=False, activation="selu", dropout=0.1``.
    augmentation
        What makes the views: a name, a :class:`scssl.augment.Augmentation` or a list of those, applied
        in that order. See :func:`scssl.augment.augmentation`. Of a MuData, a dict of these by modality;
        what is not in a dict is for RNA. Graphs of other batches that ``adata.obsp`` has not are made for
        the model by the defaults of :func:`scssl.pp.cross_batch_neighbors`, where `batch_key` was set up;
        a line of log says so. Modalities that are not named have their defaults: for
        proteins ``Mask(0.5, p=1)``, ``"default"`` for the others. Graphs and counts
        are for RNA only; a graph is that of the MuData or of its RNA. With one that is not of scssl no
        views are saved: the loaded model embeds and can be fine-tuned, as with `None`. To change it later,
        set ``model.augmentation``.
    fusion
        Of a MuData, how the embeddings of modalities become one: ``"concat"`` (default), side by side;
        ``"add"``; ``"mean"`` of those that a cell has; ``"clip"``, the mean, with a loss that contrasts the
        modalities of a cell with those of other cells :cite:p:`Radford2021` in addition.
    projector_dims
        Widths of the projector's layers; by default those of the method.
    **options
        Of the method, whose class lists them.

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

    module: JointEmbeddingModule
    #: What a method adds to the encoder, and its objective.
    _Network: ClassVar[type[JointEmbeddingModule]]
    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "batch_key": SetupArgument(
            """Column of ``adata.obs`` with the batch, for augmentations that are about batches, such as
            ``"integration"`` or ``CrossOver(within="batch")``. The network is not told the batch."""
        )
    }
    _setup_refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("categorical_covariate_keys", "continuous_covariate_keys"), _NO_COVARIATES
    )
    #: Cells per step where there are fewer than 20,000. What contrasts cells needs some to contrast.
    _few_cells_batch: ClassVar[int] = 128

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the constructor and the docstring of a method list all that it takes."""
        cls.__doc__ = documented(cls.__doc__, JointEmbedding.__doc__)
        if (
            cls.__module__.startswith("scssl.")
            and cls.__doc__
            and "Examples\n---" not in cls.__doc__
        ):
            # Every method of the package is used as that of the example.
            example = str(JointEmbedding.__doc__).partition("Examples\n---")
            cls.__doc__ += "".join(example[1:]).replace("SimCLR", cls.__name__)
        super().__init_subclass__(**kwargs)
        if "_Network" in vars(cls) and "__init__" not in vars(cls):
            own = options_of(cls._Network._add_heads, bounds=False)

            def init(self: Any, adata: Any = None, registry: Any = None, **options: Any) -> None:
                JointEmbedding.__init__(self, adata, registry, **options)

            init.__name__ = "__init__"
            listing = list_options(init, own.values(), JointEmbedding.__init__)
            cls.__init__ = explained(listing)  # type: ignore[method-assign]

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        hidden_dims: Sequence[int] = (128,),
        n_latent: int = 64,
        dropout: float = 0.0,
        activation: Activation = "relu",
        batch_norm: bool = True,
        augmentation: str | Augmentation | Sequence[Any] | Mapping[str, Any] | None = "default",
        fusion: Fusion | None = None,
        projector_dims: Sequence[int] | None = None,
        rng: RNG = 0,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        self._made_graphs: dict[str, Any] = {}
        views = (
            None
            if augmentation is None
            else choose_views(augmentation, self.setup, self._setup_again)
        )
        if augmentation == "default":
            say_of_batches(self.setup)
        if self.setup.modalities:
            fusion = "concat" if fusion is None else fusion
        elif fusion is not None:
            raise ValueError(
                f"fusion={fusion!r} is for several modalities, and the model was set up with an AnnData. "
                "Leave it out, `fusion=None`, or set up a MuData."
            )
        dims = None if projector_dims is None else check_widths("projector_dims", projector_dims)
        self._arguments = {
            "hidden_dims": check_widths("hidden_dims", hidden_dims),
            "n_latent": check_whole("n_latent", n_latent),
            "dropout": check_number("dropout", dropout, "[0, 1)"),
            "activation": activation,
            "batch_norm": bool(batch_norm),
            "projector_dims": dims,
            **({"fusion": fusion} if self.setup.modalities else {}),
            **self._of_method(options),
        }
        self._start_module(rng, augmentation=views)
        self._tables(self._adata)
        if fusion == "clip":
            self._warn_of_no_pairs()
        self._model_summary_string = self._summary()

    def _of_method(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The hyper-parameters of the method, as the user wants them or as they are by default."""
        taken = options_of(self._Network._add_heads)
        chosen = {
            name: checked(name, given.get(name, one.default), one.annotation)
            for name, one in taken.items()
        }
        if chosen.get("queue_size", 0) is None:
            # In more than a quarter of the cells a cell would meet itself.
            n_cells = int(self.summary_stats["n_cells"])
            chosen["queue_size"] = min(2048, max(64, n_cells // 4))
        if "negatives" in chosen and chosen["negatives"] is None:
            # It follows from the views, which can be set later: nothing to keep.
            del chosen["negatives"]
        if chosen.get("negatives") == "own_batch" and self.setup.batch_key is None:
            again = self._setup_again("batch_key")
            raise ValueError(f"negatives='own_batch' needs a batch of each cell: {again}.")
        return chosen

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna: str | None = "rna",
        protein: str | None = "prot",
        atac: str | None = "atac",
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        atac_layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        input: Literal["auto", "counts", "lognorm"] = "auto",
        target_sum: float = 1e4,
        protein_normalization: Literal["clr", "log1p", "none"] = "clr",
        atac_normalization: Literal["tfidf", "binary"] = "tfidf",
    ) -> None:
        """Check a MuData and say where things are in it.

        Two or three of its modalities are used; cells may lack some of them. Values are normalised as
        they are read, in batches, and no matrix is copied. Nothing of `mdata` is changed but
        ``mdata.uns["_scvi_uuid"]`` and ``mdata.uns["_scvi_manager_uuid"]``, in which scvi-tools keeps what
        it registers.

        Parameters
        ----------
        mdata
            Cells by the features of several modalities, in memory or on disk.
        rna, protein, atac
            Names of the modalities, `None` for one that is not to be used. A modality with the usual
            name is used where there is one.
        rna_layer, protein_layer, atac_layer
            Layers with the values, by default ``X`` of each.
        batch_key, labels_key
            Columns of ``mdata.obs``, or of the ``obs`` of modalities: batch, for augmentations within it,
            and cell type, by which the validation split is stratified.
        input
            What the values of RNA are, see :meth:`setup_anndata`.
        target_sum
            Sum of a cell before the logarithm, for counts of RNA and for TF-IDF.
        protein_normalization
            ``"clr"``: the centred log ratio of :cite:p:`Stoeckius2017` across the proteins of a cell, as
            the logarithm of 1 + the ratio of a count to exp(mean of log(1 + counts)), so that zeros stay
            zeros (other than the ``"clr"`` of :class:`ProteinPredictor`, which is the difference of the
            logarithms). ``"log1p"``: the logarithm alone. ``"none"``: values are normalised already, for
            instance by dsb, and may be negative.
        atac_normalization
            ``"tfidf"``: the logarithm of 1 + `target_sum` × TF × IDF :cite:p:`Stuart2021`; the
            inverse document frequency is that of the training cells and part of the model.
            ``"binary"``: whether there is a count.

        Raises
        ------
        TypeError
            If `mdata` is not a MuData.
        KeyError
            If a modality, layer or column does not exist.
        ValueError
            If `mdata` is a view or has fewer than two of the modalities; if values are not finite, or not
            what a normalisation is for; if cells are in none of the modalities.

        Examples
        --------
        >>> import anndata, mudata, numpy as np, scssl
        >>> rng = np.random.default_rng(0)
        >>> rna = anndata.AnnData(rng.poisson(1.0, (50, 20)).astype("f4"))
        >>> protein = anndata.AnnData(rng.poisson(9.0, (50, 4)).astype("f4"))
        >>> protein.var_names = ["CD3", "CD4", "CD8", "CD19"]
        >>> mdata = mudata.MuData({"rna": rna, "prot": protein})
        >>> scssl.model.SimCLR.setup_mudata(mdata)
        >>> scssl.model.SimCLR(mdata, fusion="concat").n_latent
        128
        """
        given = {k: v for k, v in locals().items() if k not in ("cls", "mdata")}
        scale = check_number("target_sum", target_sum, "(0, inf)")
        setup, features, found = make_mudata_setup(
            mdata,
            {"rna": rna, "protein": protein, "atac": atac},
            {"rna": rna_layer, "protein": protein_layer, "atac": atac_layer},
            {"protein": protein_normalization, "atac": atac_normalization},
            batch_key=batch_key,
            labels_key=labels_key,
            input=input,
            target_sum=scale,
        )
        manager = cls._manager(mdata=mdata, **given)
        manager.validation_checks.check_fully_paired_mudata = False
        cls._register_features(manager, mdata, features)
        manager.registry[SETUP] = {"setup": setup.to_dict(), "fingerprint": found}
        cls.register_manager(manager)

    @classmethod
    def _called(cls, data: Any) -> tuple[str, str]:
        return ("mdata", "setup_mudata") if hasattr(data, "mod") else super()._called(data)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the model reads, of ``"rna"``, ``"protein"`` and ``"atac"``; none of an AnnData."""
        return tuple(one.kind for one in self.setup.modalities)

    def _summary(self) -> str:
        """What the model is, in a line."""
        found, views = self._arguments, self.augmentation
        common = set(inspect.signature(JointEmbedding).parameters) - {"fusion"}
        options = {name: value for name, value in found.items() if name not in common}
        inputs = ", ".join(f"{one.n_features} {one.kind}" for one in self.setup.modalities)
        first = f"({inputs})" if inputs else len(self.genes)
        sizes = "-".join(map(str, [first, *found["hidden_dims"], found["n_latent"]]))
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in options.items())
        return (
            f"{sizes} encoder {'with' if found['batch_norm'] else 'without'} batch normalisation, "
            f"{found['activation']}, "
            + ("no views" if views is None else f"views by {views!r}")
            + (f", {chosen}" if chosen else "")
        )

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> JointEmbeddingModule:
        options = dict(arguments)
        if options["augmentation"] is not None:
            options["augmentation"] = views_from_config(options["augmentation"])
        if setup.modalities:
            options["modalities"] = {one.kind: one.n_features for one in setup.modalities}
            options["n_idf"] = sum(
                one.n_features for one in setup.modalities if one.normalization == "tfidf"
            )
        batch = setup.batch_key
        assert setup.target_sum is not None
        return cls._Network(
            len(genes),
            **options,
            input_kind=setup.input_kind,
            target_sum=setup.target_sum,
            batch_key=None if batch is None else category_key(batch),
        )

    @classmethod
    def _encoder_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "heads": False, "augmentation": None}

    @property
    def augmentation(self) -> Augmentation | dict[str, Augmentation] | None:
        """What makes the views; of a MuData by modality. It can be set, as in the constructor."""
        found: Views | None = self.module.augmentation  # type: ignore[assignment]
        return found

    @augmentation.setter
    def augmentation(self, augmentation: Any) -> None:
        before, views = self.augmentation, None
        if augmentation is not None:
            views = choose_views(augmentation, self.setup, self._setup_again)
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
                'further: `model.augmentation = "default"`.'
            )
            return {**config, "augmentation": None}
        return config

    def attach(self, adata: AnnData) -> None:
        super().attach(adata)
        self._made_graphs = {}

    attach.__doc__ = SSLModel.attach.__doc__

    def _tables(self, adata: Any) -> PartnerWalks | None:
        """Graphs that the views draw other cells from; `None` where they need none."""
        found = self.augmentation
        views = found.get("rna") if isinstance(found, dict) else found
        if views is None:
            return None
        walks = (views.walks(0), views.walks(1))
        if not views.graphs() or adata is None:
            return None
        return PartnerWalks(graph_tables(adata, views, self.setup, self._made_graphs), walks)

    def _training_data(self) -> CellReader:
        if self.augmentation is None:
            raise ValueError(
                "This model has no augmentation, as one that is not of scssl is not saved. To train it: "
                '`model.augmentation = "default"`, for instance.'
            )
        data = self._read(None)
        if self.setup.batch_key is not None:
            data.obs[category_key(self.setup.batch_key)] = data.codes(self.setup.batch_key)
        data.partners = self._tables(self._adata)
        return data

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: TrainOptions, *, resumed: bool
    ) -> dict[str, Any]:
        self._start_idf(data, rows)
        views = self.augmentation
        parts = views.values() if isinstance(views, dict) else (views,)
        if not any(part is not None and part.changes for part in parts):
            warn(
                f"The two views of a cell never differ: {views!r} changes nothing. Pass views that do, "
                'such as `model.augmentation = "default"`.'
            )
        # The momentum of a target follows the number of steps in total.
        identity: dict[str, Any] = {"max_epochs": chosen.max_epochs, "max_steps": chosen.max_steps}
        tables = {} if data.partners is None else data.partners.tables
        if tables:
            identity["graphs"] = {name: table.digest for name, table in tables.items()}
            report_coverage(tables, self._with_rna(data, rows))
        return identity

    def _start_idf(self, data: CellReader, rows: np.ndarray) -> None:
        """Take the inverse document frequency of peaks from the training cells, once."""
        if not hasattr(self.module, "idf") or self.is_trained_:
            return
        assert data.normalize is not None
        i = self.modalities.index("atac")
        block = data.normalize.blocks[i]
        rows = rows[data.obs[PRESENT][rows, i]]
        counts = (columns_of(part, block.start, block.stop)[1] for part in data.read(rows))
        block.idf = inverse_document_frequency(counts, block.stop - block.start, len(rows))
        self.module.idf.copy_(torch.from_numpy(block.idf))

    def _with_rna(self, data: CellReader, rows: np.ndarray) -> np.ndarray:
        """Those of the cells whose views can be made with others."""
        if not self.setup.modalities:
            return rows
        found: np.ndarray = rows[data.obs[PRESENT][rows, self.modalities.index("rna")] > 0]
        return found

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        few = n_cells < 20_000
        epochs = round(200_000 / max(n_cells, 1))
        return {
            "max_epochs": int(np.clip(epochs, 20, 100)),
            "batch_size": self._few_cells_batch if few else 256,
            "lr": 2e-3 if few else 1e-3,
            "early_stopping": self._Network.loss_ranks_epochs,
        }

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
        orthologs: str | Path | pd.DataFrame | None = None,
        layer: Literal["encoder", "projector"] = "encoder",
        modality: Literal["joint", "rna", "protein", "atac"] = "joint",
    ) -> np.ndarray:
        """Embed cells.

        As :meth:`SSLModel.get_latent_representation`: genes are matched by name, nothing is
        augmented, and the embedding of a cell does not depend on the batch it is in.

        Parameters
        ----------
        adata
            Cells to embed, the model's own by default. It need not be set up. Of a model of several
            modalities a MuData, which may lack some of them, or an AnnData with RNA.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default. It makes no difference to the result.
        min_overlap
            Share of the model's genes that `adata` must have; of each modality that it has.
        orthologs
            For an AnnData of another species, a table of orthologs, see :meth:`SSLModel.get_latent_representation`.
        layer
            Output of the encoder or of the projector, in which the views were compared.
        modality
            Of a model of several modalities, the embedding of all that a cell has, or of one alone; that is
            NaN for cells that lack it.

        Returns
        -------
        Float32, shape ``(n_cells, n_latent)`` or the width of the projector, in the order of
        `indices`.

        Raises
        ------
        GeneMismatchError
            If too few genes are found.
        ValueError
            If the values are not of the kind that the model was trained on, or there is no such layer.
        """
        check_choice("layer", layer, ("encoder", "projector"))
        if orthologs is not None:
            adata, _ = self.translated(self._or_own(adata), orthologs)
        if modality != "joint":
            self._check_modality(modality)
            if layer != "encoder":
                raise ValueError(f'layer="projector" is of all, found modality={modality!r}.')
            return self._embed_modality(adata, indices, batch_size, min_overlap, modality)
        if layer == "encoder":
            return super().get_latent_representation(
                adata, indices, batch_size, min_overlap=min_overlap
            )
        data = self._read(adata, min_overlap=min_overlap, indices=indices)
        self._warn_if_untrained()
        width = self.module.projected_width
        return self._apply(data, data.rows(indices), batch_size, self.module.project, width)

    def _embed_modality(
        self, adata: Any, indices: Any, batch_size: int | None, min_overlap: float, modality: str
    ) -> np.ndarray:
        data = self._read(adata, min_overlap=min_overlap, indices=indices)
        self._warn_if_untrained()
        rows = data.rows(indices)
        have = data.obs[PRESENT][rows, self.modalities.index(modality)].astype(bool)
        if len(rows) and not have.any():
            raise ValueError(f"None of the cells has the modality {modality!r}.")

        def embed(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return self.module.embed_modality(tensors, modality)

        width = int(self._arguments["n_latent"])
        out = np.full((len(rows), width), np.nan, dtype=np.float32)
        out[have] = self._apply(data, rows[have], batch_size, embed, width)
        return out

    def get_modality(
        self,
        adata: AnnData | MuData | None = None,
        modality: Literal["rna", "protein", "atac"] = "protein",
        *,
        min_overlap: float = 0.5,
    ) -> pd.DataFrame:
        """Values of a modality as the model reads them: normalised, in the order of its features.

        Parameters
        ----------
        adata
            Cells, the model's own by default.
        modality
            Which.
        min_overlap
            Share of the model's features of each modality that `adata` must have.

        Returns
        -------
        Frame of cells by features, float32; NaN for cells without this modality, and for features that
        `adata` does not have.

        Raises
        ------
        ValueError
            If the model has no such modality.
        """
        self._check_modality(modality)
        data = self._read(adata, min_overlap=min_overlap)
        assert data.normalize is not None
        i = self.modalities.index(modality)
        block = data.normalize.blocks[i]
        columns = stripped(self.genes, self.setup.modalities[i], block.start)
        values = np.full((data.n_cells, len(columns)), np.nan, dtype=np.float32)
        rows = np.flatnonzero(data.obs[PRESENT][:, i])
        start = 0
        for batch in data.loader(rows, 2048):
            part = columns_of(_csr(batch["X"]), block.start, block.stop)[1].toarray()
            values[rows[start : start + len(part)]] = part
            start += len(part)
        if data.alignment is not None:
            values[:, ~data.alignment.present[block.start : block.stop]] = np.nan
        return table_of(values, data.adata.obs_names, columns)

    def align(self, adata: AnnData | MuData, *, min_overlap: float = 0.0) -> GeneAlignment:
        """How the features of a data set map onto those of the model, by name.

        Parameters
        ----------
        adata
            The data.
        min_overlap
            Share of the model's features, of each modality, that it must have.
        """
        if not self.setup.modalities:
            return super().align(adata, min_overlap=min_overlap)
        reader = self._read(adata, min_overlap=min_overlap)
        if reader.alignment is not None:
            found: GeneAlignment = reader.alignment
            return found
        return self.genes.align(self.genes.names)

    def _read(self, adata: Any, *, min_overlap: float = 0.5, indices: Any = None) -> CellReader:
        if not self.setup.modalities:
            if hasattr(adata, "mod"):
                raise TypeError(
                    "The model was set up with an AnnData. Pass a modality: "
                    f"`adata=mdata[{next(iter(adata.mod), 'rna')!r}]`; to learn from several, set up the MuData."
                )
            return super()._read(adata, min_overlap=min_overlap, indices=indices)
        own = adata is None or adata is self._adata
        idf = getattr(self.module, "idf", None)
        reader = read_mudata(
            self._or_own(adata),
            self.setup,
            self.genes,
            min_overlap=min_overlap,
            idf=idf.cpu().numpy() if idf is not None and self.is_trained_ else None,
        )
        if own:
            self._check_unchanged(reader.fingerprint)
        return reader

    def _write_data(self, folder: Path) -> None:
        if self.setup.modalities:
            self._adata.write_h5mu(folder / "mdata.h5mu")
        else:
            super()._write_data(folder)

    def _check_modality(self, modality: str) -> None:
        if modality not in self.modalities:
            what = ", ".join(map(repr, self.modalities)) or "none: it was set up with an AnnData"
            raise ValueError(f"`modality` must be of the model ({what}); found {modality!r}.")

    def _warn_of_no_pairs(self) -> None:
        """Warn where a contrast of modalities has nothing to contrast."""
        mdata: Any = self._adata
        if mdata is None:
            return
        has = [mdata.obs_names.isin(mdata.mod[one.name].obs_names) for one in self.setup.modalities]
        n_paired = int((np.sum(has, axis=0) > 1).sum())
        if n_paired < 2:
            warn(
                f'fusion="clip" contrasts modalities, and {n_paired} of {mdata.n_obs:,} cells have two. Add cells '
                'with both, or take `fusion="mean"`.'
            )

    @property
    def n_latent(self) -> int:
        """Width of the embedding."""
        return self.module.n_latent

    def _backbone(self) -> Backbone:
        if not self.setup.modalities:
            return super()._backbone()
        rna = next((one for one in self.setup.modalities if one.kind == "rna"), None)
        if rna is None:
            raise ValueError(
                "Only the RNA encoder of a model of several modalities can be fine-tuned, and this model "
                "reads none. Use its embedding, as in scssl.tl.label_transfer."
            )
        _LOGGER.info("Of the model's encoders, that of RNA is used.")
        prefix = "encoder.encoders.rna."
        weights = {
            f"encoder.{name.removeprefix(prefix)}": value
            for name, value in self.module.state_dict().items()
            if name.startswith(prefix)
        }
        arguments = {k: v for k, v in self._config().items() if k != "fusion"}
        if arguments["augmentation"] is not None:
            arguments["augmentation"] = arguments["augmentation"]["rna"]
        setup = replace(
            self.setup,
            layer=rna.layer,
            batch_key=None,
            labels_key=None,
            categories={},
            modalities=(),
        )
        return Backbone(
            type(self).__name__,
            self._encoder_arguments(arguments),
            setup,
            GeneVocabulary(stripped(self.genes, rna, 0)),
            int(arguments["n_latent"]),
            pretrained=bool(self.is_trained_),
            weights=copied(weights),
        )


def _csr(x: torch.Tensor) -> sparse.csr_matrix:
    arrays = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
    return sparse.csr_matrix(arrays, shape=tuple(x.shape))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def options_of(function: Callable[..., Any], *, bounds: bool = True) -> dict[str, Any]:
    """Arguments that a function takes by name only, with their types and, with `bounds`, those too."""
    types = get_type_hints(function, include_extras=bounds)
    return {
        name: one.replace(annotation=types.get(name, Any))
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
