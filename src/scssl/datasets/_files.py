"""From the folder of data sets, or from the deposit that published them, to one layout."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._settings import settings

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")


@dataclass(frozen=True)
class Deposit:
    """A data set: its file in a folder of data sets, and where it comes from.

    Parameters
    ----------
    name
        Of the file in a folder of data sets, without ``.h5ad``.
    origin
        Publication and accession, as they stand in ``uns["source"]``.
    page
        Where a person finds it.
    files
        Address and checksum of the files to download, by name. Empty where no public deposit with a
        known checksum has the cells.
    """

    name: str
    origin: str
    page: str
    files: dict[str, tuple[str, str]] = field(default_factory=dict)

    def read(
        self,
        path: str | os.PathLike[str] | None,
        convert: Callable[..., AnnData] | None = None,
    ) -> AnnData:
        """The file of `path` or of ``scssl.settings.data_dir``, else what is downloaded, converted."""
        import anndata

        place = self._place(path)
        if place is not None:
            _LOGGER.info("%s: read from %s.", self.name, place)
            return self._laid_out(anndata.read_h5ad(place))
        if convert is None:
            folder = settings.data_dir
            where = (
                "there is no folder of data sets" if folder is None else f"it is not in {folder}"
            )
            raise FileNotFoundError(
                f"{self.name}.h5ad is not at hand: {where}. Nothing is downloaded, as no public deposit of "
                f"these cells has a checksum that scssl knows. They are of {self.origin}: {self.page}. With "
                f"a folder that has the file: `scssl.settings.data_dir = FOLDER`"
            )
        return self._laid_out(convert(*(self._fetch(name) for name in self.files)))

    def _place(self, path: str | os.PathLike[str] | None) -> Path | None:
        folder = settings.data_dir if path is None else Path(path).expanduser()
        if folder is None:
            return None
        place = folder if folder.suffix == ".h5ad" else folder / f"{self.name}.h5ad"
        if path is not None and not place.exists():
            raise FileNotFoundError(
                f"There is no file {place}. `path` is {self.name}.h5ad or the folder that has it."
            )
        return place if place.exists() else None

    def _fetch(self, name: str) -> str:
        """Path of a downloaded file, whose checksum is right; it is downloaded once."""
        try:
            import pooch
        except ImportError as error:
            raise ImportError(
                f'To download {self.name} pooch is needed: `pip install "scssl[datasets]"`'
            ) from error
        url, checksum = self.files[name]
        cache = Path(pooch.os_cache("scssl"))
        elsewhere = f"download {url} and put it at {cache / name}"
        if not (cache / name).exists():
            _LOGGER.info("%s: downloading %s to %s.", self.name, url, cache)
        try:
            return str(
                pooch.retrieve(url, checksum, fname=name, path=cache, progressbar=settings.progress)
            )
        except ValueError as error:
            raise ValueError(
                f"What {url} sent is not the file that was published: {error} Try again later, or pass a "
                f"{self.name}.h5ad of your own: `path=FILE`"
            ) from error
        except OSError as error:
            raise ConnectionError(
                f"{self.name} cannot be downloaded from {url} ({type(error).__name__}). Where there is a "
                f"network, {elsewhere} of this machine. Or pass a {self.name}.h5ad: `path=FILE`"
            ) from error

    def _laid_out(self, adata: AnnData) -> AnnData:
        """Categories in ``obs``, proteins as a table, and where it is from in ``uns``."""
        import pandas as pd

        for name in adata.obs:
            if adata.obs[name].dtype.kind not in "biuf":
                adata.obs[name] = adata.obs[name].astype("category")
        if isinstance(adata.obsm.get("protein"), np.ndarray):
            names = [str(name) for name in adata.uns["protein_names"]]
            proteins = pd.DataFrame(adata.obsm["protein"], adata.obs_names, names)
            adata.obsm["protein"] = proteins
        kept: dict[str, Any] = {"source": f"{self.origin} ({self.page})"}
        if "species" in adata.uns:
            kept["species"] = str(adata.uns["species"])
        adata.uns = kept
        return adata
