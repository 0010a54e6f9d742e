"""Embeddings of cells from a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scssl._checks import check_adata, check_destination
from scssl._io import as_path
from scssl._random import RNG, as_seed

from ._common import to_be_written
from ._recommended import AUTO, of_variable_genes, plan_for

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.model import SSLModel


def embed(
    adata: AnnData,
    model: SSLModel | str | Path | None = None,
    *,
    layer: str | None = None,
    key_added: str = "X_ssl",
    batch_size: int | None = None,
    min_overlap: float = 0.5,
    orthologs: str | Path | pd.DataFrame | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    progress: bool = False,
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    """Embed cells with a trained model or, where none is given, with one that is trained on them.

    Without a model it is a :class:`scssl.model.MaskedAutoencoder` with 50 principal components beside the
    network, of the genes in ``adata.var["highly_variable"]`` where there is that column: what did best within
    one batch in our comparisons. Where there are several batches, :func:`integrate` brings them together. To
    embed other cells the same way, or to keep the model, train one.

    Genes are matched by name: order does not matter, genes that the model does not know are not
    used, and genes that the data lack are taken as zero.

    Parameters
    ----------
    adata
        Cells to embed, with the kind of values the model was trained on; a MuData for a model of
        several modalities.
    model
        A model, the folder it was saved in, or its name on the Hugging Face Hub, ``"owner/name"``;
        a folder goes first. By default one is trained.
    layer
        Layer to train on without a model, ``adata.X`` by default; a model reads what it was trained on.
    key_added
        Where the results go in `adata.obsm` and `adata.uns`.
    batch_size
        Cells to read at a time, 2,048 by default; changes speed and memory, not the embedding.
    min_overlap
        Share of the model's genes that `adata` must have.
    orthologs
        For cells of another species than the model's: a table of orthologs of both, as for
        :func:`scssl.pp.map_orthologs`; genes are mapped for the embedding alone.
    revision
        Branch, tag or commit of a model on the hub; the newest of the main branch by default.
    token
        Access token, for private models on the hub; that of ``hf auth login`` by default.
    progress
        Whether to show a bar while a model is trained.
    rng
        Seed or generator of a model that is trained here.
    copy
        Leave `adata` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.obsm[key_added]`` : :class:`numpy.ndarray` (float32)
            The embedding, shape ``(n_cells, n_latent)``.
        ``adata.uns[key_added]`` : :class:`dict`
            Class of the model, version of scssl, hashes of the encoder's weights and of the gene
            vocabulary, numbers of genes matched, missing and not used, share of the model's genes that was
            measured, and the parameters. With `orthologs` an
            entry of this name: the species, ``counts`` of genes that are mapped and of those that are not by the
            reason, and ``genes``, a row for each.

    Raises
    ------
    GeneMismatchError
        If too few genes of the model are in `adata`.
    BundleError
        If the folder or repository `model` does not hold a sound model.
    FileNotFoundError, PermissionError, ConnectionError
        If `model` is to be fetched from the hub and cannot be.
    ValueError
        If `revision` or `token` is given for a model that is here.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
    >>> model = scssl.model.MaskedAutoencoder(adata)
    >>> model.train(max_epochs=1, progress=False)
    >>> scssl.tl.embed(adata, model)
    >>> adata.obsm["X_ssl"].shape
    (700, 64)

    Or without one:

    >>> scssl.tl.embed(adata)
    >>> adata.obsm["X_ssl"].shape
    (700, 114)
    """
    from scssl import __version__

    # A data frame has a `mod` too, which is a method.
    several = isinstance(getattr(adata, "mod", None), Mapping)
    if not several:
        check_adata(adata)
    check_destination(adata, key_added, copy=copy)
    cells, report = adata, None
    if model is not None and layer is not None:
        raise ValueError(
            "`layer` is for `adata` without a model, which knows its own: leave it out."
        )
    if model is None:
        asked = {"revision": revision, "token": token, "orthologs": orthologs}
        for name, value in asked.items():
            if value is not None:
                raise ValueError(f"`{name}` is for a model, and none is given: leave it out.")
        if several:
            name = "rna" if "rna" in adata.mod else next(iter(adata.mod))
            raise TypeError(
                "Without a model one modality is embedded, and `adata` is a MuData. Embed that one, here "
                f"{name!r}: `scssl.tl.embed(mdata[{name!r}])`."
            )
        cells, kind = of_variable_genes(adata, layer, None)
        plan = plan_for(AUTO, adata.n_obs, 1)
        model = plan.trained(cells, None, kind, as_seed(rng), max_epochs=None, progress=progress)
    if isinstance(model, (str, Path)):
        from scssl.model import SSLModel

        if token is not None and as_path(model).exists():
            raise ValueError(f"{model} is a folder, which needs no token: leave `token` out.")
        model = SSLModel.from_pretrained(model, revision=revision, token=token)
    elif revision is not None or token is not None:
        name = "revision" if revision is not None else "token"
        raise ValueError(
            f"`{name}` is for a model on the hub, and `model` is a {type(model).__name__}. "
            f"Leave it out: `{name}=None`."
        )
    found = type(model).__name__
    if not hasattr(model, "get_latent_representation"):
        raise TypeError(f"`model` must be a scssl model or the folder of one, found {found}.")
    if several and not getattr(model, "modalities", ()):
        # Its cells are those of all modalities, which the embedding of one does not fit.
        name = "rna" if "rna" in adata.mod else next(iter(adata.mod))
        one = f"Embed that one, here {name!r}: `scssl.tl.embed(mdata[{name!r}], model)`."
        raise TypeError(f"{found} embeds one modality, and `adata` is a MuData. {one}")
    if orthologs is not None:
        cells, report = model.translated(cells, orthologs)
    embedding = model.get_latent_representation(
        cells, batch_size=batch_size, min_overlap=min_overlap
    )
    adata = to_be_written(adata, copy=copy)
    batch_key = getattr(getattr(model, "setup", None), "batch_key", None)
    genes = model.align(cells)
    adata.obsm[key_added] = embedding
    adata.uns[key_added] = {
        "model": type(model).__name__,
        "scssl_version": __version__,
        "encoder_hash": model.encoder_hash,
        "vocabulary_hash": model.genes.hash,
        "n_genes_matched": genes.n_matched,
        "n_genes_missing": genes.n_missing,
        "n_genes_extra": genes.n_extra,
        "share_measured": genes.overlap,
        "params": {
            "n_latent": embedding.shape[1],
            "batch_key": "none" if batch_key is None else batch_key,
        },
    }
    if report is not None:
        adata.uns[key_added]["orthologs"] = report
    return adata if copy else None
