"""Save and load models as folders of safetensors and JSON."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scssl._errors import BundleError
from scssl.data import GeneVocabulary
from scssl.hub import read_bundle, write_bundle

from ._registry import get_model_class
from ._setup import obs_column
from ._training import history_frames, history_lists

if TYPE_CHECKING:
    from anndata import AnnData

    from scssl.module import SSLModule

    from ._reader import CellReader

# Parts of a module that make embeddings; what is beside them only serves training or a head.
_ENCODES = ("encoder.", "gene_encoder.", "covariate_encoder.", "idf")


class PersistenceMixin:
    """The parts of a model that write and read folders, and tell what its weights are."""

    if TYPE_CHECKING:
        module: SSLModule

    @property
    def encoder_hash(self) -> str:
        """Digest of the weights that embeddings are made with.

        It is the same for models that embed alike: a head, a decoder or a projector makes no
        difference to it, nor does saving and loading. Where cells see each other, which do is part of it.
        """
        digest = hashlib.sha256()
        context = self.module.context
        if context is not None and context.mode != "sample":
            digest.update(f"{context.mode} {context.size} {context.halo};".encode())
        for name, value in sorted(self.module.state_dict().items()):
            name = name.removeprefix("backbone.")
            # Counters of batch normalisation are whole numbers, and not used in embedding.
            if not name.startswith(_ENCODES) or not value.is_floating_point():
                continue
            digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            plain = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(plain.numpy().data)
        return digest.hexdigest()

    def _config(self) -> dict[str, Any]:
        """Arguments to build the model again, JSON only."""
        raise TypeError(type(self).__name__)

    def _saved_config(self) -> dict[str, Any]:
        """What is saved of :meth:`_config`: nothing that could not be loaded."""
        return self._config()

    @classmethod
    def load_registry(cls, dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Setup of a saved model, as scvi-tools records it.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        prefix
            Not used.
        """
        registry: dict[str, Any] = read_bundle(dir_path).config["registry"]
        return registry

    @staticmethod
    def view_setup_args(dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the setup of a saved model.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        prefix
            Not used.
        """
        print(read_bundle(dir_path).config["registry"]["setup_args"])

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Not offered: it would unpickle a file.

        Raises
        ------
        BundleError
            Always.
        """
        raise BundleError("scssl reads no pickles. Load the model with the program that saved it.")

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Mapping[str, Any]) -> Self:
        """Model without data from what :meth:`_config` gave."""
        return cls(registry=registry, **config)  # type: ignore[call-arg]

    def save(
        self, dir_path: str | Path, overwrite: bool = False, save_anndata: bool = False
    ) -> None:
        """Save the model as a folder.

        The folder holds ``model.safetensors``, ``config.json`` and ``genes.json``: weights,
        arguments, how data are read, versions, training summary and history, and the genes. It is
        written as a whole or not at all.

        Parameters
        ----------
        dir_path
            Folder to write.
        overwrite
            Replace a model that is there.
        save_anndata
            Also write the model's data to the folder: an AnnData as ``adata.h5ad``, a MuData as
            ``mdata.h5mu``.

        Raises
        ------
        ValueError
            If the folder exists and may not be replaced, or there is no AnnData to save.

        Examples
        --------
        >>> import scssl, tempfile
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
        >>> model = scssl.model.MaskedAutoencoder(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> model.save(folder)
        >>> loaded = scssl.model.MaskedAutoencoder.load(folder)
        >>> bool(
        ...     (loaded.get_latent_representation(adata) == model.get_latent_representation()).all()
        ... )
        True
        """
        model: Any = self
        if save_anndata and model.adata is None:
            raise ValueError("The model has no AnnData to save. Pass save_anndata=False.")
        config = {
            "class": type(self).__name__,
            "arguments": self._saved_config(),
            "input": model.setup.input_kind,
            "registry": _without_genes(model.registry_),
            "trained": bool(model.is_trained_),
            "training": model.training_,
            "history": history_lists(model.history_),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("scssl", "torch", "scvi-tools", "anndata")},
            },
        }
        tensors = {name: t.detach().cpu() for name, t in model.module.state_dict().items()}
        write_bundle(
            dir_path,
            tensors=tensors,
            config=config,
            genes=model.genes.to_dict(),
            overwrite=overwrite,
        )
        if save_anndata:
            if hasattr(model.adata, "mod"):
                model.adata.write_h5mu(Path(dir_path) / "mdata.h5mu")
            else:
                model.adata.write_h5ad(Path(dir_path) / "adata.h5ad")

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        *,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load a model from a folder.

        Nothing in the folder is executed or unpickled.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        adata
            Data to attach to the model; it need not be set up. Without it, pass data when embedding.
        device
            Where to put the weights.

        Raises
        ------
        BundleError
            If the folder is missing, incomplete, altered, from another program, from a newer
            version, or holds a model of another class.
        """
        bundle = read_bundle(dir_path)
        config = bundle.config
        name = config.get("class")
        try:
            model_class: Any = get_model_class(str(name))
        except ValueError as error:
            raise BundleError(
                f"{dir_path} holds a model that this version of scssl does not have. {error}"
            ) from error
        if not issubclass(model_class, cls):
            raise BundleError(
                f"{dir_path} holds a {name}, not a {cls.__name__}. Load it with "
                f'scssl.model.{name}.load("{dir_path}")'
            )
        try:
            genes = GeneVocabulary.from_dict(bundle.genes)
            if config["input"] not in ("counts", "lognorm"):
                raise ValueError(f"unknown input {config['input']!r}")
            if not all(t.isfinite().all() for t in bundle.tensors.values()):
                raise ValueError("there are weights that are not finite")
            model = model_class._from_config(
                _with_genes(config["registry"], genes), config["arguments"]
            )
            model.genes = genes
            absent = model.module.state_dict().keys() - bundle.tensors.keys()
            if absent:
                # PyTorch lets the counters of batch normalisation be absent.
                raise ValueError(f"there is no {min(absent)}")
            model.module.load_state_dict(bundle.tensors, strict=True)
            model.is_trained_ = bool(config["trained"])
            model.training_ = dict(config["training"])
            model.history_ = history_frames(config["history"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise BundleError(
                f"{dir_path} does not fit the model it says it holds ({name}): {error}"
            ) from error
        model.module.to(device).eval()
        if adata is not None:
            model.attach(adata)
        loaded: Self = model
        return loaded

    def attach(self, adata: AnnData) -> None:
        """Make an AnnData the model's own, to embed it or to go on training.

        Parameters
        ----------
        adata
            Data with the genes and columns that the model was set up with; it is not changed.
        """
        model: Any = self
        data = model._read(adata)
        self._check_columns(data)
        if model.setup.labels_key is not None:
            obs_column(data.adata, model.setup.labels_key)
        model._adata = adata
        model.registry_["scssl_setup"]["fingerprint"] = data.fingerprint

    def _check_columns(self, data: CellReader) -> None:
        """Refuse cells without the columns that training reads."""
        data.with_covariates()


def _without_genes(registry: Mapping[str, Any]) -> Any:
    """A registry of scvi-tools as JSON; the gene names are stored once, in their own file."""
    plain = _without_arrays(registry)
    del plain["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"]
    return plain


def _without_arrays(registry: Any) -> Any:
    if isinstance(registry, Mapping):
        return {
            str(name): _without_arrays(value)
            for name, value in registry.items()
            if name != "_scvi_uuid"
        }
    if isinstance(registry, np.ndarray):
        return [_without_arrays(value) for value in registry.tolist()]
    if isinstance(registry, (list, tuple)):
        return [_without_arrays(value) for value in registry]
    return registry.item() if isinstance(registry, np.generic) else registry


def _with_genes(registry: dict[str, Any], genes: GeneVocabulary) -> dict[str, Any]:
    fields = registry["field_registries"]
    fields[REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"] = genes.names
    for content in fields.values():
        state = content["state_registry"]
        if "categorical_mapping" in state:
            state["categorical_mapping"] = np.asarray(state["categorical_mapping"], dtype=object)
    return registry
