"""Cells in files: what is read, and where results may be written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData


def check_input(file: str | Path) -> Path:
    """A file that is there."""
    from scssl._io import as_path

    path = as_path(file)
    if not path.is_file():
        problem = (
            f"{path} is a folder, not a file." if path.is_dir() else f"There is no file {path}."
        )
        raise FileNotFoundError(problem)
    return path


def check_cells(file: str | Path) -> Path:
    """An .h5ad file or a Zarr store that is there."""
    from scssl._io import as_path

    path = as_path(file)
    if is_store(path):
        return path
    if path.is_dir() and not _is_zarr(path):
        raise ValueError(
            f"{path} is a folder, and no Zarr store. Give an .h5ad file or a Zarr store."
        )
    return path if path.is_dir() else check_input(path)


def is_store(path: Path) -> bool:
    """Whether `scssl build-store` wrote it."""
    return (path / "store.json").is_file()


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def check_output(
    out: str | Path, *, overwrite: bool, folder: bool = False, n_bytes: int = 0
) -> Path:
    """A place that results may be written to."""
    from scssl._io import check_place

    path = check_place(out, "--out", folder=folder, n_bytes=n_bytes)
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise ValueError(f"{path} exists already. Give another --out, or replace it: `--overwrite`")
    if taken and path.suffix == ".zarr" and not _is_zarr(path):
        raise ValueError(f"{path} holds files and no Zarr store. Give another --out.")
    return path


def read_cells(path: Path, *, backed: bool) -> AnnData:
    """Cells of a file or store; with `backed` their matrix stays there."""
    import anndata

    try:
        if path.is_dir():
            return _open_zarr(path) if backed else anndata.read_zarr(path)
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except (OSError, KeyError) as error:
        kind = "a Zarr store" if path.is_dir() else ".h5ad"
        raise ValueError(f"{path} cannot be read as {kind} of cells: {error}") from error


def _open_zarr(path: Path) -> AnnData:
    """Cells whose matrices stay on the disk."""
    import anndata
    import zarr
    from anndata.io import read_elem, sparse_dataset

    def matrix(stored: Any) -> Any:
        return stored if isinstance(stored, zarr.Array) else sparse_dataset(stored)

    store: Any = zarr.open_group(path, mode="r")
    rest = {name: read_elem(store[name]) for name in ("obs", "var", "obsm", "uns") if name in store}
    layers = {name: matrix(stored) for name, stored in store["layers"].members()}
    return anndata.AnnData(matrix(store["X"]), layers=layers, **rest)


def write_cells(adata: AnnData, path: Path) -> None:
    """Write the whole file or nothing, so that ``path`` may be what was read."""
    from scssl._io import replace_file, replace_folder

    if path.suffix == ".zarr":
        with replace_folder(path) as folder:
            adata.write_zarr(folder)
    else:
        with replace_file(path) as file:
            adata.write_h5ad(file)
