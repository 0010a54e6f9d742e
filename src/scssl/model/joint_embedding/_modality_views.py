"""What makes the views of a model, by modality where there are several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scssl.augment import Augmentation, Mask, augmentation_from_config
from scssl.augment import augmentation as make_augmentation
from scssl.model.base import DataSetup

Views = Augmentation | dict[str, Augmentation]


def default_views(kind: str) -> Augmentation:
    """What makes the views of a modality where the user leaves it open.

    Half of the values of proteins are hidden too, few as there are. Less (a fifth, in half of the views)
    was worse on both data sets with proteins: the two views of the proteins are then so alike that the
    encoder of RNA has little to learn.
    """
    if kind == "protein":
        return Mask(0.5, p=1.0)
    return make_augmentation("default")


def choose_views(augmentation: Any, setup: DataSetup) -> Views:
    """Views as the user wants them, of each modality where there are several.

    Raises
    ------
    ValueError
        If they are for a modality that is not there, or need what it does not have.
    """
    if not setup.modalities:
        if isinstance(augmentation, Mapping):
            raise ValueError(
                "`augmentation` names modalities, but the model was set up with an AnnData. Pass what is "
                "for it: augmentation=[...]"
            )
        views: Augmentation = make_augmentation(augmentation)
        _check_counts(views, setup.input_kind, setup.where, "setup_anndata(adata, layer=")
        _check_batch(views, setup, "setup_anndata(adata")
        return views
    kinds = [one.kind for one in setup.modalities]
    asked = dict(augmentation) if isinstance(augmentation, Mapping) else {kinds[0]: augmentation}
    unknown = [kind for kind in asked if kind not in kinds]
    if unknown:
        raise ValueError(
            f"`augmentation` is for {', '.join(map(repr, unknown))}, but the modalities are "
            f"{', '.join(map(repr, kinds))}."
        )
    chosen = {}
    for one in setup.modalities:
        views = make_augmentation(asked[one.kind]) if one.kind in asked else default_views(one.kind)
        if one.kind != "rna" and (views.needs_counts or views.walks(0) or views.walks(1)):
            what = "resamples counts" if views.needs_counts else "draws neighbours from a graph"
            raise ValueError(
                f"The augmentation {views!r} {what}, which is for RNA only. Pass another one for "
                f'{one.kind}: augmentation={{"rna": ..., "{one.kind}": "mask"}}'
            )
        _check_counts(views, one.normalization, one.where, "setup_mudata(mdata, rna_layer=")
        _check_batch(views, setup, "setup_mudata(mdata")
        chosen[one.kind] = views
    return chosen


def _check_counts(views: Augmentation, kind: str, where: str, how: str) -> None:
    if views.needs_counts and kind != "counts":
        raise ValueError(
            f"The augmentation {views!r} needs counts, but {where} was set up as "
            f'log-normalised. Set up a layer with counts: {how}"counts"), or '
            'take another one: augmentation="mask".'
        )


def _check_batch(views: Augmentation, setup: DataSetup, how: str) -> None:
    if views.needs_batch and setup.batch_key is None:
        raise ValueError(
            f"The augmentation {views!r} needs the batch of each cell, and none was set up: "
            f'{how}, batch_key="...").'
        )


def views_from_config(config: Any) -> Views:
    """Views from what was saved of them."""
    if isinstance(config, Augmentation):
        return config
    if "name" in config:
        return augmentation_from_config(config)
    return {
        kind: one if isinstance(one, Augmentation) else augmentation_from_config(one)
        for kind, one in config.items()
    }


def config_of(views: Views) -> dict[str, Any]:
    """What is saved of them."""
    if isinstance(views, Augmentation):
        return views.config()
    return {kind: one.config() for kind, one in views.items()}
