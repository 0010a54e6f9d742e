"""Lists in the pages that follow from the registry of models: a new model is in them by itself."""

from __future__ import annotations

import scssl


def joint_embedding() -> list[str]:
    """Names of the joint-embedding methods."""
    return [
        name
        for name in scssl.model.list_models()
        if issubclass(scssl.model.get_model_class(name), scssl.model.JointEmbedding)
    ]


def autosummary(names: list[str], *, toctree: bool) -> str:
    """A table of models with the first line of each, with pages of their own or linked to them."""
    options = ["   :toctree: generated"] * toctree + ["   :nosignatures:"]
    rows = [f"   model.{name}" for name in names]
    return "\n".join([".. currentmodule:: scssl", "", ".. autosummary::", *options, "", *rows])


def substitutions() -> dict[str, str]:
    """What ``{{ name }}`` stands for in a page."""
    methods = joint_embedding()
    return {
        "joint_embedding_names": ", ".join(f"`{name}`" for name in methods),
        "joint_embedding_table": f"```{{eval-rst}}\n{autosummary(methods, toctree=False)}\n```",
        "joint_embedding_pages": f"```{{eval-rst}}\n{autosummary(methods, toctree=True)}\n```",
    }
