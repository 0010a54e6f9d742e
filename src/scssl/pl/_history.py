"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._errors import MissingKeyError

from ._figure import PALETTE, figure, finish, line_style, make_panels

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
    model: SSLModel | Sequence[Any] | Mapping[str, Any],
    keys: str | Sequence[str] | None = None,
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw the training curves of a model, or of several runs together.

    Parameters
    ----------
    model
        Trained model, or its `model.history`; a list of several, or a dict of them by name, which
        are told apart by colour and dash.
    keys
        Entries of `model.history` to draw, one panel each. By default the losses share a panel,
        with the epoch of the least validation loss marked, and the effective rank has the next:
        near 1 means that the embedding has collapsed onto a line. Of several runs there is one
        loss, that of the validation cells where each run has it.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If `keys` names something that was not recorded.
    ValueError
        If a model is not trained, there are no runs, or there are several panels for one `ax`.

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
    from matplotlib.ticker import MaxNLocator

    runs = _runs(model)
    curves = _curves(runs, keys, single=ax is not None)
    axes = make_panels(len(curves), ax, (4.2 * len(curves), 3.2), "give one of `keys`")
    for panel, names in zip(axes, curves, strict=True):
        if len(runs) > 1:
            _draw_runs(panel, names[0], {run: recorded[names[0]] for run, recorded in runs.items()})
        else:
            _draw(panel, {name: recorded[name] for recorded in runs.values() for name in names})
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return finish(axes, ax, show=show, save=save)


def _runs(model: Any) -> dict[str, Mapping[str, pd.DataFrame]]:
    """Histories by the names of runs."""
    import pandas as pd

    if isinstance(model, (list, tuple)):
        named = {f"run {number}": one for number, one in enumerate(model, start=1)}
    elif isinstance(model, Mapping) and {isinstance(v, pd.DataFrame) for v in model.values()} != {
        True
    }:
        named = {str(name): one for name, one in model.items()}
    else:
        named = {"": model}
    if not named:
        raise ValueError("`model` is a list of no runs.")
    found = {}
    for name, one in named.items():
        recorded = one if isinstance(one, Mapping) else getattr(one, "history", None)
        if not recorded:
            where = f" ({name})" if name else ""
            raise ValueError(
                f"{type(one).__name__}{where} has no training history: call `model.train()` first."
            )
        found[name] = recorded
    return found


def _curves(
    runs: Mapping[str, Mapping[str, pd.DataFrame]],
    keys: str | Sequence[str] | None,
    *,
    single: bool,
) -> list[list[str]]:
    """Entries of the histories that go in each panel."""
    if keys is None:
        shared = set.intersection(*(set(recorded) for recorded in runs.values()))
        losses = [name for name in _LOSSES if name in shared]
        panels = [losses if len(runs) == 1 else losses[-1:]]
        if "effective_rank" in shared and not single:
            panels.append(["effective_rank"])
        return panels
    keys = [keys] if isinstance(keys, str) else list(keys)
    for name, recorded in runs.items():
        absent = [key for key in keys if key not in recorded]
        if absent or not keys:
            what = f"{absent[0]!r} was not recorded" if absent else "`keys` is empty"
            where = f"history of {name!r}" if name else "history"
            raise MissingKeyError(f"{what}; the {where} has {', '.join(map(repr, recorded))}.")
    return [[key] for key in keys]


def _draw(ax: Axes, curves: Mapping[str, pd.DataFrame]) -> None:
    for name, frame in curves.items():
        values = frame.iloc[:, 0].astype(float).dropna()
        marker = "o" if len(values) == 1 else None
        label = _name_of(name)
        ax.plot(
            values.index, values, color=_COLORS.get(name, PALETTE[0]), label=label, marker=marker
        )
        if name == "validation_loss" and len(values):
            place = int(values.argmin())
            best = int(values.index[place])
            ax.axvline(best, color="0.6", linewidth=1, linestyle=":", zorder=0)
            ax.plot(best, values.iloc[place], "o", color=_COLORS[name], label=f"best: epoch {best}")
    names = list(curves)
    if set(names) <= set(_LOSSES):
        ax.set_ylabel("loss")
        ax.legend(frameon=False)
    else:
        ax.set_ylabel(_name_of(names[0]))


def _draw_runs(ax: Axes, key: str, curves: Mapping[str, pd.DataFrame]) -> None:
    """One curve of each run, with the epoch of the least validation loss marked."""
    for number, (name, frame) in enumerate(curves.items()):
        values = frame.iloc[:, 0].astype(float).dropna()
        marked = [int(values.argmin())] if key == "validation_loss" and len(values) else []
        marked = [0] if len(values) == 1 else marked
        ax.plot(values.index, values, label=name, markevery=marked, **line_style(number))
    ax.set_ylabel(f"{_name_of(key)}{' loss' if key in _LOSSES else ''}")


def _name_of(key: str) -> str:
    return _NAMES.get(key, key.replace("_", " "))
