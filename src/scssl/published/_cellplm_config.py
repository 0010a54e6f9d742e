"""The configuration beside a checkpoint of :cite:p:`Wen2024`: sizes, variant and genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scssl._errors import BundleError
from scssl._io import MAX_JSON_BYTES, parse_json, read_bytes

from ._ledger import some

VARIANTS = ("gmvae", "vae", "ae")
#: How the two released lists of genes, which are one, begin and end.
RELEASED_GENES = (19_374, "ENSG00000000003", "ENSG00000291317")
# Options that change the network, and the only value of each that is converted: that of the released models.
_FIXED: dict[str, Any] = {
    "enc_mod": "flowformer",
    "dec_mod": "nbmlp",
    "norm": "groupnorm",
    "pe_type": "sin",
    "cat_pe": False,
    "dsbn": False,
    "input_covariate": False,
    "platform_num": 0,
    "gene_emb": None,
}
# Of these the published code takes another value where they are absent, or none.
_NEEDED = ("enc_mod", "dec_mod", "norm", "cat_pe")


@dataclass(frozen=True)
class CellPLMConfig:
    """What a configuration says of the network."""

    file: str
    """Name of the file."""
    genes: tuple[str, ...]
    """Name of each row of the gene embedding."""
    n_hidden: int
    n_layers: int
    n_heads: int
    n_latent: int
    n_clusters: int
    latent: str | None
    """Variant of the latent space, where it is named."""
    n_covariates: Mapping[str, int | None]
    """Rows of the embeddings of ``"batch"`` and ``"dataset"``, `None` where they are not given."""
    training: Mapping[str, float]
    """Arguments of our model that only training uses."""
    options: Mapping[str, Any]
    """The whole file but for the genes."""


def read_config(path: Path) -> CellPLMConfig:
    """Read and check a configuration.

    Parameters
    ----------
    path
        ``{prefix}.config.json``.

    Raises
    ------
    BundleError
        If it is missing, not JSON, has no genes or sizes, or is of a network that is not converted.
    """
    # Through links: the cache of huggingface_hub is made of them.
    options = parse_json(read_bytes(path.resolve(), max_bytes=MAX_JSON_BYTES), path)
    genes = _genes(options.pop("gene_list", None), path)
    for name, expected in _FIXED.items():
        found = options.get(name, None if name in _NEEDED else expected)
        if found != expected:
            what = f"{name}={found!r}" if name in options else f"no {name}"
            raise BundleError(
                f"{path.name} has {what}; converted are networks with {name}={expected!r} "
                "only, like the released ones."
            )
    n_hidden, n_layers, n_latent = (
        _size(options, name, path) for name in ("enc_hid", "enc_layers", "post_latent_dim")
    )
    n_heads = _size(options, "enc_head", path, default=8)
    if n_hidden % n_heads or n_hidden % 4:
        raise BundleError(
            f"{path.name} has enc_hid={n_hidden}, which must be a multiple of 4 and of enc_head="
            f"{n_heads}."
        )
    if _size(options, "dec_hid", path, default=n_hidden) != n_hidden:
        raise BundleError(
            f"{path.name} has dec_hid={options['dec_hid']} and enc_hid={n_hidden}; converted are "
            "networks where the two are the same."
        )
    latent = options.get("latent_mod")
    if latent is not None and latent not in VARIANTS:
        raise BundleError(
            f"{path.name} has latent_mod={latent!r}; known are {', '.join(VARIANTS)}."
        )
    return CellPLMConfig(
        path.name,
        genes,
        n_hidden,
        n_layers,
        n_heads,
        n_latent,
        _size(options, "num_clusters", path, default=16),
        latent,
        {
            kind: _size(options, f"{kind}_num", path) if options.get(f"{kind}_num") else None
            for kind in ("batch", "dataset")
        },
        {
            ours: _share(options, name, path)
            for ours, name in (
                ("dropout", "model_dropout"),
                ("mask_cells", "mask_node_rate"),
                ("mask_rate", "mask_feature_rate"),
                ("cell_dropout", "drop_node_rate"),
            )
            if name in options
        },
        options,
    )


def _genes(names: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise BundleError(
            f"{path.name} is no configuration of CellPLM: it has no gene_list, which names the rows of "
            "the gene embedding."
        )
    wrong = next((i for i, n in enumerate(names) if not isinstance(n, str) or not n.strip()), None)
    if wrong is not None:
        raise BundleError(f"gene_list of {path.name} has no name in row {wrong}: {names[wrong]!r}.")
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
        raise BundleError(f"gene_list of {path.name} has genes more than once: {some(twice)}.")
    return tuple(names)


def _size(options: Mapping[str, Any], name: str, path: Path, *, default: int | None = None) -> int:
    found = options.get(name, default)
    if type(found) is not int or found < 1:
        what = "nothing" if found is None else repr(found)
        raise BundleError(f"{name} in {path.name} must be a whole number above 0, found {what}.")
    return found


def _share(options: Mapping[str, Any], name: str, path: Path) -> float:
    found = options[name]
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < 1:
        raise BundleError(f"{name} in {path.name} must be a number in [0, 1), found {found!r}.")
    return float(found)
