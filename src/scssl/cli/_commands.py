"""What ``scssl train`` and ``scssl embed`` do."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._options import MODEL_OPTIONS, SETUP_OPTIONS, TRAIN_OPTIONS

if TYPE_CHECKING:
    from anndata import AnnData


def train(
    file: str, *, out: str, overwrite: bool = False, backed: bool = False, **options: Any
) -> None:
    """Train a model on ``file`` and save it in ``out``."""
    path = _check_input(file)
    # Before, not after, hours of training.
    _check_output(Path(out), overwrite=overwrite)

    from scssl.hub import check_target
    from scssl.model import JointEmbedding, get_model_class

    check_target(Path(out), overwrite=overwrite)
    arguments = _pick(options, [*MODEL_OPTIONS, "rng"])
    model_class: Any = get_model_class(arguments.pop("model", "MaskedAutoencoder"))
    if not model_class._learns_embeddings:
        raise ValueError(
            f"{model_class.__name__} starts from a trained model. Train one with `scssl train`, then in "
            f"Python: scssl.model.{model_class.__name__}.from_ssl_model(...)"
        )
    taken = set(inspect.signature(model_class).parameters)
    if "kwargs" in taken:
        taken |= set(inspect.signature(JointEmbedding).parameters)
    for name in arguments:
        if name not in taken:
            raise ValueError(f"{model_class.__name__} has no option --{name.replace('_', '-')}.")
    adata = _read(path, backed=backed)
    model_class.setup_anndata(adata, **_pick(options, SETUP_OPTIONS))
    if "mask_options" in arguments:
        arguments["mask_options"] = dict(arguments["mask_options"])
    if "preset" in arguments and hasattr(model_class, "from_preset"):
        model = model_class.from_preset(arguments.pop("preset"), adata, **arguments)
    else:
        model = model_class(adata, **arguments)
    model.train(**_pick(options, TRAIN_OPTIONS))
    model.save(out, overwrite=overwrite)
    print(model)
    print(
        f"The model is in {out}. To embed cells with it:\n"
        f"  scssl embed {file} --model {out} --out embedded.h5ad"
    )


def embed(file: str, *, model: str, out: str, overwrite: bool = False, **options: Any) -> None:
    """Embed the cells of ``file`` with the model in ``model`` and write them to ``out``."""
    path, target = _check_input(file), Path(out)
    if target.suffix != ".h5ad":
        raise ValueError(f"--out must end in .h5ad, found {out}.")
    _check_output(target, overwrite=overwrite)

    from scssl.tl import embed as tl_embed

    adata = _read(path, backed=False)
    tl_embed(adata, model, **options)
    _write(adata, target)
    key = options.get("key_added", "X_ssl")
    n_cells, n_latent = adata.obsm[key].shape
    print(f'{out}: {n_cells:,} cells, {n_latent} dimensions in .obsm["{key}"].')


def _pick(options: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def _check_input(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    return path


def _check_output(path: Path, *, overwrite: bool) -> None:
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise ValueError(
            f"{path} exists already. Give another --out, or --overwrite to replace it."
        )


def _read(path: Path, *, backed: bool) -> AnnData:
    import anndata

    try:
        return anndata.read_h5ad(path, backed="r" if backed else None)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as .h5ad: {error}") from error


def _write(adata: AnnData, path: Path) -> None:
    """Write the whole file or nothing, so that ``path`` may be the file that was read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.h5ad")
    try:
        adata.write_h5ad(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
