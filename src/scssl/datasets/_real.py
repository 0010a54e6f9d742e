"""Data sets that were published, in one layout."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._files import Deposit

if TYPE_CHECKING:
    from anndata import AnnData

_GEO = "https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc="
_SCVERSE = "https://exampledata.scverse.org"
_PBMC3K = Deposit(
    "pbmc3k",
    "10x Genomics, 3k PBMCs from a healthy donor",
    "https://www.10xgenomics.com/datasets/3-k-pbm-cs-from-a-healthy-donor-1-standard-1-1-0",
    {
        "pbmc3k_raw.h5ad": (
            f"{_SCVERSE}/scanpy/pbmc3k_raw.h5ad",
            "sha256:89a96f1beaa2dd83a687666d3f19a4513ac27a2a2d12581fcd77afed7ea653a1",
        ),
        "pbmc3k_processed.h5ad": (
            f"{_SCVERSE}/scanpy/pbmc3k.h5ad",
            "sha256:0db367b991dd95809732b218539ede489bea99113807f62ebd7ccc970025fe38",
        ),
    },
)
_PBMC_CITE = Deposit(
    "pbmc_cite_2batch_400",
    "10x Genomics, 5k and 10k PBMCs with cell surface proteins (v3)",
    "https://www.10xgenomics.com/datasets",
    {
        "5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5": (
            "https://cf.10xgenomics.com/samples/cell-exp/3.0.2/5k_pbmc_protein_v3/"
            "5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5",
            "md5:3366a47283177fe9af143d5819fad61f",
        )
    },
)
_MERFISH = Deposit(
    "merfish_hypothalamus_3slices",
    "Moffitt et al. 2018, Dryad doi:10.5061/dryad.8t8s248",
    "https://doi.org/10.1126/science.aau5324",
    {
        "merfish.h5ad": (
            "https://ndownloader.figshare.com/files/28169379",
            "sha256:371723d48413ba76aba49ccf7ea24867b1db940529216fe2902484f5c2a48904",
        )
    },
)


_LOCAL = """Parameters
----------
path
    ``{file}.h5ad`` or a folder that has it; by default ``scssl.settings.data_dir``. Nothing is
    downloaded: no public deposit of these cells has a checksum that could be compared."""
_DOWNLOADED = """Parameters
----------
path
    ``{file}.h5ad`` or a folder that has it. By default it is looked for in
    ``scssl.settings.data_dir``, then downloaded once and checked (`pip install "scssl[datasets]"`)."""
_RAISES = """Raises
------
FileNotFoundError
    If the file is not there; the message says where the data come from."""
_DOWNLOADED_RAISES = """Raises
------
FileNotFoundError
    If `path` names no file.
ConnectionError
    If it cannot be downloaded; the message says where to put the file.
ValueError
    If what is downloaded has another checksum."""
_EXAMPLE = """

Examples
--------
>>> import scssl
>>> scssl.datasets.{name}()  # doctest: +SKIP
"""


def _documented[F: Callable[..., AnnData]](
    file: str, *, downloaded: bool = False
) -> Callable[[F], F]:
    """Say where a docstring has ``{path}`` and ``{raises}`` what all data sets take and raise."""

    def write(function: F) -> F:
        path = (_DOWNLOADED if downloaded else _LOCAL).replace("{file}", file)
        raises = _DOWNLOADED_RAISES if downloaded else _RAISES
        example = _EXAMPLE.replace("{name}", function.__name__)
        text = inspect.getdoc(function) or ""
        text = text.replace("{path}", path).replace("{raises}", raises + example)
        function.__doc__ = text
        return function

    return write


@_documented("pbmc3k", downloaded=True)
def pbmc3k(path: str | os.PathLike[str] | None = None) -> AnnData:
    """2,638 blood cells of one donor (10x Genomics), with the types of a tutorial.

    Source: 10x Genomics, CC BY 4.0. Downloaded are the two files of scanpy's data sets, the counts and the
    clusters of their tutorial, for the cells that have one and the genes that three cells express. The
    labels are clusters of the same expression, so that scores of an embedding against them flatter it.

    {path}

    Returns
    -------
    anndata.AnnData
        2,638 cells × about 13,700 genes, counts in ``X``, ``obs["cell_type"]``: eight names of scanpy's
        tutorial, or the nine of Seurat's in the file of the folder.

    {raises}
    """
    return _PBMC3K.read(path, _pbmc3k)


def _pbmc3k(counts: str, clusters: str) -> AnnData:
    import anndata

    cells, types = anndata.read_h5ad(counts), anndata.read_h5ad(clusters, backed="r").obs["louvain"]
    cells = cells[:, cells.X.getnnz(axis=0) >= 3]
    cells = cells[types.index].copy()
    cells.obs = types.to_frame("cell_type")
    cells.uns["species"] = "human"
    return cells


@_documented("pbmc_cite_2batch_400", downloaded=True)
def pbmc_cite(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Blood cells with RNA and surface proteins (CITE-seq, 10x Genomics), without labels.

    Source: 10x Genomics, CC BY 4.0. In the folder are 200 cells of each of two runs, as they are among the
    test data of scvi-tools. Downloaded are all 5,247 cells of one run, with 32 antibodies.

    {path}

    Returns
    -------
    anndata.AnnData
        400 cells × 15,792 genes, or 5,247 × 33,538: counts in ``X``, counts of proteins in
        ``obsm["protein"]``, and ``obs["batch"]``.

    {raises}
    """
    cells = _PBMC_CITE.read(path, _pbmc_cite)
    # What the antibodies are called that 10x sells.
    cells.obsm["protein"].columns = cells.obsm["protein"].columns.str.removesuffix("_TotalSeqB")
    return cells


def _pbmc_cite(file: str) -> AnnData:
    import pandas as pd
    import scanpy as sc

    with warnings.catch_warnings():
        # Some symbols stand for several genes; they get numbers below.
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        both = sc.read_10x_h5(file, gex_only=False)
        both.var_names_make_unique()
    is_protein = (both.var["feature_types"] == "Antibody Capture").to_numpy()
    cells = both[:, ~is_protein].copy()
    names = both.var_names[is_protein]
    proteins = both.X[:, is_protein].toarray()
    cells.obsm["protein"] = pd.DataFrame(proteins, cells.obs_names, names)
    cells.obs["batch"] = "pbmc5k"
    cells.uns["species"] = "human"
    return cells


@_documented("merfish_hypothalamus_3slices", downloaded=True)
def merfish_hypothalamus(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Slices of the hypothalamus of mice with the places of the cells (MERFISH, Moffitt et al. 2018).

    Source: Dryad doi:10.5061/dryad.8t8s248, CC0. In the folder are 6,000 cells of three slices, about a third
    of the cells of each. Downloaded are the 73,655 cells of twelve slices as squidpy has them
    :cite:p:`Palla2022`; the genes that are blank controls are left out.

    {path}

    Returns
    -------
    anndata.AnnData
        Cells × genes; values that were normalised by the authors, not counts, in ``X``. Places in
        ``obsm["spatial"]``, slices in ``obs["batch"]``, types in ``obs["cell_type"]``.

    {raises}
    """
    return _MERFISH.read(path, _merfish)


def _merfish(file: str) -> AnnData:
    import anndata

    cells = anndata.read_h5ad(file)
    cells = cells[:, ~cells.var_names.str.startswith("Blank")].copy()
    cells.obs = cells.obs[["Cell_class", "batch"]].rename(columns={"Cell_class": "cell_type"})
    cells.obsm = {"spatial": cells.obsm["spatial"]}
    cells.uns["species"] = "mouse"
    return cells


@_documented("kang_ifnb")
def kang_ifnb(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Blood cells of two donors, with and without interferon (Kang et al. 2018).

    Source: GEO GSE96583. 1,556 cells of five types in four samples: donor and condition together. The condition is
    biology, so an embedding that mixes the samples completely has lost it. The file is that of the examples of the
    R package muscat. Licence: that of the deposit.

    {path}

    Returns
    -------
    anndata.AnnData
        1,556 cells × 1,267 genes, counts in ``X``; ``obs`` has ``cell_type``, ``batch``, ``donor`` and
        ``condition``.

    {raises}
    """
    return Deposit("kang_ifnb", "Kang et al. 2018, GEO GSE96583", f"{_GEO}GSE96583").read(path)


@_documented("scmixology_5batch")
def scmixology(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Five cancer cell lines measured five times (Tian et al. 2019).

    Source: GEO GSE118767; tables of counts in the repository LuyiTian/sc_mixology. The label of a cell is known from
    its genotype, not from its expression, and batches are runs of CEL-seq2 and Drop-seq: what integration is to do is
    known here. Licence: that of the deposit.

    {path}

    Returns
    -------
    anndata.AnnData
        1,021 cells × 11,533 genes (Ensembl ids), counts in ``X``; ``obs`` has ``cell_type`` and ``batch``.

    {raises}
    """
    return Deposit(
        "scmixology_5batch",
        "Tian et al. 2019, GEO GSE118767",
        "https://github.com/LuyiTian/sc_mixology",
    ).read(path)


@_documented("baron_human_mouse_328")
def baron_pancreas(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Pancreas cells of humans and mice (Baron et al. 2016), for work across species.

    Source: GEO GSE84133. 328 cells of six donors, with the genes that both species have under one symbol. Licence: that of
    the deposit.

    {path}

    Returns
    -------
    anndata.AnnData
        328 cells × 12,474 genes, counts in ``X``; ``obs`` has ``cell_type``, ``batch`` and ``species``.

    {raises}
    """
    return Deposit(
        "baron_human_mouse_328", "Baron et al. 2016, GEO GSE84133", f"{_GEO}GSE84133"
    ).read(path)


@_documented("cbmc_cite")
def cbmc_cite(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Cord blood cells with RNA and ten surface proteins (Stoeckius et al. 2017).

    Source: GEO GSE100866 :cite:p:`Stoeckius2017`. The file has the 2,000 most variable genes without their names, and
    proteins that are normalised (centred log ratios). 607 of the cells are of a mouse line that was added. Licence: that
    of the deposit.

    {path}

    Returns
    -------
    anndata.AnnData
        8,617 cells × 2,000 genes, counts in ``X``, ``obsm["protein"]``; ``obs`` has ``cell_type``
        and ``cluster``, which is finer.

    {raises}
    """
    return Deposit("cbmc_cite", "Stoeckius et al. 2017, GEO GSE100866", f"{_GEO}GSE100866").read(
        path
    )


@_documented("starmap_mpfc_3slices")
def starmap_cortex(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Three slices of the prefrontal cortex of mice with their layers (STARmap, Wang et al. 2018).

    Source: the repository zhengli09/BASS-Analysis, whose authors drew the layers by hand, by marker genes. No licence is stated.

    {path}

    Returns
    -------
    anndata.AnnData
        3,190 cells × 166 genes, counts in ``X``, ``obsm["spatial"]``; ``obs`` has ``cell_type``, ``region`` (the layers)
        and ``batch`` (the slices).

    {raises}
    """
    return Deposit(
        "starmap_mpfc_3slices",
        "Wang et al. 2018, domains of Li and Zhou 2022",
        "https://github.com/zhengli09/BASS-Analysis",
    ).read(path)


@_documented("osmfish_ss_cortex")
def osmfish_cortex(path: str | os.PathLike[str] | None = None) -> AnnData:
    """A slice of the somatosensory cortex of a mouse with its regions (osmFISH, Codeluppi et al. 2018).

    Source: linnarssonlab.org/osmFISH. Cells that the published table lists twice are left out.
    Licence: that of the deposit.

    {path}

    Returns
    -------
    anndata.AnnData
        4,358 cells × 33 genes, counts in ``X``, ``obsm["spatial"]``; ``obs`` has ``cell_type`` and ``region``.

    {raises}
    """
    return Deposit(
        "osmfish_ss_cortex", "Codeluppi et al. 2018, osmFISH", "http://linnarssonlab.org/osmFISH/"
    ).read(path)


@_documented("her2st_8sections")
def breast_tumours(path: str | os.PathLike[str] | None = None) -> AnnData:
    """Sections of the breast tumours of eight patients with regions drawn by a pathologist (Andersson et al. 2021).

    Source: Zenodo 3957257. Section, patient and batch are the same here, so what differs between them is biology too.
    Licence: that of the deposit.

    {path}

    Returns
    -------
    anndata.AnnData
        3,157 spots × 14,580 genes, counts in ``X``, ``obsm["spatial"]``; ``obs`` has ``region``, ``cell_type`` (the same)
        and ``batch``.

    {raises}
    """
    return Deposit(
        "her2st_8sections",
        "Andersson et al. 2021, Zenodo 3957257",
        "https://doi.org/10.5281/zenodo.3957257",
    ).read(path)


@_documented("st_olfactory_bulb")
def olfactory_bulb(path: str | os.PathLike[str] | None = None) -> AnnData:
    """The olfactory bulb of a mouse in 260 spots with its layers (Ståhl et al. 2016).

    Source: doi:10.1126/science.aaf2403; spots and layers as in the R package MERINGUE. Licence: that of the deposit.

    {path}

    Returns
    -------
    anndata.AnnData
        260 spots × 14,217 genes, counts in ``X``, ``obsm["spatial"]``; ``obs`` has
        ``region`` (the layers) and ``cell_type`` (the same).

    {raises}
    """
    return Deposit(
        "st_olfactory_bulb",
        "Ståhl et al. 2016, doi:10.1126/science.aaf2403",
        "https://doi.org/10.1126/science.aaf2403",
    ).read(path)
