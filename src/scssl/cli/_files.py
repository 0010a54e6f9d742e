"""Cells in files: what is read, and where results may be written."""

from __future__ import annotations

import shlex
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

#: Bytes of a file above which its matrix is not read into memory where that makes no difference.
LARGE = 4 * 2**30


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
    names = ("obs", "var", "obsm", "obsp", "uns")
    rest = {name: read_elem(store[name]) for name in names if name in store}
    layers = {name: matrix(stored) for name, stored in store["layers"].members()}
    return anndata.AnnData(matrix(store["X"]), layers=layers, **rest)


def stays_on_disk(path: Path, target: Path, backed: bool | None) -> bool:
    """Whether the matrix of a file is left there, which then is copied to the target and added to."""
    alike = path.is_dir() == (target.suffix == ".zarr")
    if backed is None:
        size = sum(one.stat().st_size for one in (path.rglob("*") if path.is_dir() else [path]))
        backed = alike and size > LARGE
        if backed:
            print(f"{path} has {size / 2**30:.1f} GB: its matrix stays on disk (--backed).")
    elif backed and not alike:
        kind = ".zarr" if path.is_dir() else ".h5ad"
        raise ValueError(
            "With --backed, cells are written in the form in which they are read: "
            f"`--out {shlex.quote(str(target.with_suffix(kind)))}`"
        )
    return backed


def add_to_copy(path: Path, target: Path, adata: AnnData, key: str) -> None:
    """Write a file as it is, with what is new of its cells in ``obsm`` and ``uns``."""
    from anndata.io import write_elem

    from scssl._io import replace_file, replace_folder

    def add(opened: Any) -> None:
        for slot in ("obsm", "uns"):
            write_elem(opened.require_group(slot), key, getattr(adata, slot)[key])

    if path.is_dir():
        import zarr

        with replace_folder(target) as folder:
            shutil.copytree(path, folder, dirs_exist_ok=True)
            add(zarr.open_group(folder, mode="r+", use_consolidated=False))
            with warnings.catch_warnings():
                # What the copy says of its contents is without what was added.
                warnings.filterwarnings("ignore", "Consolidated metadata")
                zarr.consolidate_metadata(folder)
    else:
        import h5py

        with replace_file(target) as file:
            shutil.copyfile(path, file)
            with h5py.File(file, "r+") as opened:
                add(opened)


def write_cells(adata: AnnData, path: Path) -> None:
    """Write the whole file or nothing, so that ``path`` may be what was read."""
    from scssl._io import replace_file, replace_folder

    if path.suffix == ".zarr":
        with replace_folder(path) as folder:
            adata.write_zarr(folder)
    else:
        with replace_file(path) as file:
            adata.write_h5ad(file)
