"""Publish models on the Hugging Face Hub, and load them from it."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scssl._errors import warn
from scssl.hub import CardFacts, collect, has_tag, is_repo_id, push_bundle, renamed
from scssl.hub import make_card as card_text

if TYPE_CHECKING:
    import torch
    from anndata import AnnData


# What is done to the values of a modality.
_READ = {
    "counts": "raw counts, scaled per cell and log-transformed by the model",
    "lognorm": "values that are scaled per cell and log-transformed already",
    "clr": "raw counts, of which the model takes the centred log ratio",
    "log1p": "raw counts, log-transformed by the model",
    "none": "values as they are",
    "tfidf": "raw counts, of which the model takes TF-IDF",
    "binary": "raw counts, of which the model takes whether there are any",
}


class HubMixin:
    """The parts of a model that publish it and load published ones."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a model from the Hugging Face Hub or from a folder.

        What is fetched are ``config.json``, ``genes.json`` and ``model.safetensors``, kept in the
        cache of huggingface_hub and checked against each other; with the environment variable
        ``HF_HUB_OFFLINE=1`` only the cache is used. Nothing in them is executed or imported: the
        class is one of :func:`scssl.model.list_models`.

        Parameters
        ----------
        source
            Repository, ``"owner/name"``, or a folder that :meth:`save` wrote. A folder goes first.
        revision
            Branch, tag or commit of the repository; the newest of the main branch by default.
        adata
            Data to attach to the model, as in :meth:`load`.
        device
            Where to put the weights.
        token
            Access token, for private models; that of ``hf auth login`` by default.

        Raises
        ------
        FileNotFoundError
            If there is no such repository or revision.
        PermissionError
            If the repository is gated, or the token is not accepted.
        ConnectionError
            If the hub cannot be reached and the model is not in the cache.
        BundleError
            If there is no such folder, or no sound model of this class.
        ValueError
            If `revision` is given for a folder.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.SSLModel.from_pretrained("owner/name")  # doctest: +SKIP
        """
        model_class: Any = cls
        if not is_repo_id(source) or Path(source).exists():
            if revision is not None:
                raise ValueError(
                    f"{source} is a folder, which has no revisions. Leave `revision` out."
                )
            here: Self = model_class.load(source, adata, device=device)
            return here
        repo_id = str(source)
        with tempfile.TemporaryDirectory(prefix="scssl-") as name:
            # Resolved, as the errors name it: temporary folders are links on some systems.
            folder = Path(name).resolve()
            try:
                collect(repo_id, folder, revision=revision, token=token)
            except (ConnectionError, FileNotFoundError) as error:
                raise type(error)(
                    f"There is no folder {repo_id}, and as a model of the hub: {error}"
                ) from error
            with renamed(folder, repo_id):
                loaded: Self = model_class.load(folder, device=device)
        if adata is not None:
            model_class.attach(loaded, adata)
        return loaded

    def make_card(
        self, repo_id: str = "owner/name", card: str | Path | Mapping[str, Any] | None = None
    ) -> str:
        """Text of the card that :meth:`push_to_hub` would publish with the model.

        Parameters
        ----------
        repo_id
            Where the model will be; it is in the lines that show how to use it.
        card
            As in :meth:`push_to_hub`.

        Returns
        -------
        Markdown, with metadata for the hub on top.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
        >>> model = scssl.model.MaskedAutoencoder(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> text = model.make_card("owner/name", {"license": "cc-by-4.0", "species": "human"})
        >>> text.splitlines()[2]
        'license: cc-by-4.0'
        """
        return card_text(self._card_facts(), repo_id, card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        card: str | Path | Mapping[str, Any] | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish the model on the Hugging Face Hub.

        Published are the files of :meth:`save` and a card, in one commit. No cells are, but the
        names of genes, of the columns that were set up, and of the categories in them: look at
        ``model.registry`` if donors are among them.

        Parameters
        ----------
        repo_id
            Repository, ``"owner/name"``; made if there is none. A model of scssl that is there
            becomes an earlier revision.
        private
            Make the repository private. One that exists stays as it is, and is refused if it is
            public.
        revision
            Branch to push to, made if there is none; the main branch by default.
        card
            `None`: a card is generated. A dict fills it: ``description``, ``species`` (one or
            several), ``data``, ``license`` (an identifier of the hub such as ``"cc-by-4.0"``),
            ``evaluation`` (DataFrame or dict), ``limits`` (one or several). A string is the card
            itself, a :class:`pathlib.Path` the file of it. :meth:`make_card` shows the result.
        token
            Access token that may write; that of ``hf auth login`` by default.
        commit_message
            Message of the commit.

        Returns
        -------
        Address of the commit.

        Raises
        ------
        ValueError
            If the model is not trained, `card` has an unknown field, the repository holds a model of
            another program, or it is public and should be private.
        PermissionError
            If the token may not write to the repository.
        ConnectionError
            If the hub cannot be reached.

        Examples
        --------
        >>> model.push_to_hub("owner/name", card={"license": "cc-by-4.0"})  # doctest: +SKIP
        """
        model: Any = self
        if not model.is_trained_:
            raise ValueError(
                "The model is not trained, so it is not published. Call model.train()."
            )
        text = self.make_card(repo_id, card)
        if not has_tag(text):
            warn(
                "The card has no `library_name: scssl` in its metadata, so "
                "scssl.hub.list_models() will not find the model. model.make_card() shows how."
            )
        with tempfile.TemporaryDirectory(prefix="scssl-") as folder:
            model.save(Path(folder) / "model")
            return push_bundle(
                Path(folder) / "model",
                repo_id,
                card=text,
                private=private,
                revision=revision,
                token=token,
                commit_message=commit_message,
            )

    def _card_facts(self) -> CardFacts:
        """What the card says of the model."""
        model: Any = self
        setup, name = model.setup, type(self).__name__
        of_batch = [] if setup.batch_key is None else [setup.batch_key]
        used = {
            "batch": of_batch,
            "labels": [] if setup.labels_key is None else [setup.labels_key],
            "covariates": [*setup.categorical_keys, *setup.continuous_keys],
        }
        embeds_with = of_batch + used["covariates"] if model.module.encodes_covariates else []
        source = model.source
        example = ["scssl.tl.embed(adata, model)", 'adata.obsm["X_ssl"]']
        if hasattr(model, "predict"):
            example.append("model.predict(adata)")
        return CardFacts(
            model=name,
            description=f"A `{name}` of scssl: it turns the "
            f"expression of {len(model.genes):,} genes in a cell into an embedding of "
            f"{model.n_latent} dimensions. Its task: {_first_sentence(type(self))}",
            example=example,
            summary=model._model_summary_string,
            n_parameters=sum(p.numel() for p in model.module.parameters()),
            n_latent=model.n_latent,
            n_genes=len(model.genes),
            gene_ids=model.genes.id_type,
            gene_examples=[str(gene) for gene in model.genes.names[:3]],
            species=model.genes.species,
            input=setup.input_kind,
            target_sum=setup.target_sum,
            where=setup.where,
            modalities={
                one.where: f"{one.kind}, {_READ[one.normalization]}" for one in setup.modalities
            },
            columns=embeds_with,
            trained_with={f"{k} column": names for k, names in used.items() if names},
            training=model.training_,
            source=None if source is None else f"{source['source']}, {source['file']}",
            versions=_versions(),
        )


def _first_sentence(cls: type) -> str:
    """First line of the docstring of a class, in lower case and without citations."""
    line = (inspect.getdoc(cls) or "").split("\n", 1)[0]
    line = re.sub(r"\s*:cite:[\w:]+:`[^`]*`", "", line)
    return line[:1].lower() + line[1:]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("scssl", "torch", "scvi-tools", "anndata")}
