"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._errors import MissingKeyError

from ._figure import PALETTE, figure, finish, make_panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from scssl.model import SSLModel

_LOSSES = ("train_loss", "validation_loss")
_NAMES = {
    "train_loss": "training",
    "validation_loss": "validation",
    "lr": "learning rate",
    "latent_std": "standard deviation of the embedding",
}
_COLORS = dict(zip(_LOSSES, PALETTE, strict=False))


@figure
def history(
    model: SSLModel,
    keys: str | Sequence[str] | None = None,
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw the training curves of a model.

    Parameters
    ----------
    model
        Trained model.
    keys
        Entries of `model.history` to draw, one panel each. By default the losses share a panel,
        with the epoch of the least validation loss marked, and the effective rank has the next:
        near 1 means that the embedding has collapsed onto a line.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If `keys` names something that was not recorded.
    ValueError
        If the model is not trained, or there are several panels for one `ax`.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
    >>> model = scssl.model.MaskedAutoencoder(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> ax = scssl.pl.history(model, "train_loss", show=False)
    >>> ax.get_xlabel()
    'epoch'
    """
    recorded = _recorded(model)
    curves = _curves(recorded, keys, single=ax is not None)
    axes = make_panels(len(curves), ax, (4.2 * len(curves), 3.2), "give one of `keys`")
    for panel, names in zip(axes, curves, strict=True):
        _draw(panel, {name: recorded[name] for name in names})
    return finish(axes, ax, show=show, save=save)


def _recorded(model: Any) -> Mapping[str, pd.DataFrame]:
    recorded = getattr(model, "history", None)
    if not recorded:
        raise ValueError(
            f"{type(model).__name__} has no training history: call `model.train()` first."
        )
    found: Mapping[str, pd.DataFrame] = recorded
    return found


def _curves(
    recorded: Mapping[str, pd.DataFrame], keys: str | Sequence[str] | None, *, single: bool
) -> list[list[str]]:
    """Entries of the history that go in each panel."""
    if keys is None:
        panels = [[name for name in _LOSSES if name in recorded]]
        if "effective_rank" in recorded and not single:
            panels.append(["effective_rank"])
        return panels
    keys = [keys] if isinstance(keys, str) else list(keys)
    absent = [key for key in keys if key not in recorded]
    if absent or not keys:
        what = f"{absent[0]!r} was not recorded" if absent else "`keys` is empty"
        raise MissingKeyError(f"{what}; the history has {', '.join(map(repr, recorded))}.")
    return [[key] for key in keys]


def _draw(ax: Axes, curves: Mapping[str, pd.DataFrame]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, frame in curves.items():
        values = frame.iloc[:, 0].astype(float).dropna()
        marker = "o" if len(values) == 1 else None
        label = _NAMES.get(name, name.replace("_", " "))
        ax.plot(
            values.index, values, color=_COLORS.get(name, PALETTE[0]), label=label, marker=marker
        )
        if name == "validation_loss" and len(values):
            place = int(values.argmin())
            best = int(values.index[place])
            ax.axvline(best, color="0.6", linewidth=1, linestyle=":", zorder=0)
            ax.plot(best, values.iloc[place], "o", color=_COLORS[name], label=f"best: epoch {best}")
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = list(curves)
    if set(names) <= set(_LOSSES):
        ax.set_ylabel("loss")
        ax.legend(frameon=False)
    else:
        ax.set_ylabel(_NAMES.get(names[0], names[0].replace("_", " ")))
    ax.spines[["top", "right"]].set_visible(False)
