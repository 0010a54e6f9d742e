"""Model cards: what a model was trained on, how good it is, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    #: What ``card=`` takes.
    Card = str | Path | Mapping[str, Any] | None

TAG = "scssl"
FIELDS = ("description", "species", "data", "license", "evaluation", "limits")
_TAGS = (TAG, "single-cell", "self-supervised-learning", "biology")
_TEMPLATE = Path(__file__).with_name("model_card.md")


@dataclass(frozen=True)
class CardFacts:
    """What a model says of itself."""

    model: str
    """Name of its class."""
    description: str
    """What it does."""
    summary: str
    """Its architecture in a line."""
    example: Sequence[str]
    """Lines of Python that use ``model`` on ``adata``."""
    n_parameters: int
    """Weights."""
    n_latent: int
    """Width of the embedding."""
    n_genes: int
    """Genes it reads."""
    gene_ids: str
    """``"ensembl"``, ``"symbol"`` or ``"unknown"``."""
    gene_examples: Sequence[str]
    """A few of them."""
    species: str | None
    """Species of the genes, if it was given."""
    input: str
    """``"counts"`` or ``"lognorm"``."""
    target_sum: float | None
    """Sum of a cell before the logarithm, for counts."""
    where: str
    """The matrix it reads, such as ``adata.X``."""
    modalities: Mapping[str, str] = field(default_factory=dict)
    """Of a MuData, each matrix it reads and what is done to its values."""
    columns: Sequence[str] = ()
    """Columns of ``adata.obs`` that embedding needs."""
    trained_with: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Columns of ``adata.obs`` that training used, by what for."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Summary of the training."""
    source: str | None = None
    """Where the weights were taken from, if they were not trained here."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the programs that wrote it."""


def make_card(facts: CardFacts, repo_id: str, card: Card = None) -> str:
    """Text of the ``README.md`` of a model that is published as `repo_id`.

    A `card` that is a text, or the path of one, is taken as it is. A dict fills the generated card, in
    the fields that users of ``model.push_to_hub`` may give.
    """
    if isinstance(card, Path):
        return card.expanduser().read_text(encoding="utf-8")
    if isinstance(card, str):
        if "\n" not in card and card.lower().endswith((".md", ".txt")):
            raise ValueError(
                f'`card` is a text. For the file: `import pathlib` and `card=pathlib.Path("{card}")`'
            )
        return card
    from huggingface_hub import ModelCard, ModelCardData

    given = _check_fields(card or {})
    species = _list(given.get("species")) or _list(facts.species)
    scales = "" if facts.target_sum is None else f"scales each cell to {facts.target_sum:,g} and "
    kinds = {
        "counts": f"raw counts; the model itself {scales}takes log(1 + x)",
        "lognorm": "values that are already scaled per cell and log-transformed, as by "
        "`scanpy.pp.normalize_total` and `scanpy.pp.log1p`",
    }
    ids = {"ensembl": "Ensembl ids", "symbol": "gene symbols", "unknown": "names"}
    about = {
        "model": facts.model,
        "version": facts.versions.get("scssl"),
        "species": ", ".join(species) or None,
        "n_cells": facts.training.get("n_cells"),
        "n_genes": facts.n_genes,
        "gene_ids": facts.gene_ids,
        "input": facts.input,
        "n_latent": facts.n_latent,
    }
    metadata = ModelCardData(
        license=given.get("license"),
        library_name=TAG,
        tags=list(dict.fromkeys([*_TAGS, _slug(facts.model), *map(_slug, species)])),
        scssl={name: value for name, value in about.items() if value is not None},
    )
    several = bool(facts.modalities)
    evaluation = given.get("evaluation")
    made = ModelCard.from_template(
        metadata,
        template_path=str(_TEMPLATE),
        facts=facts,
        genes=", ".join(map(_code, facts.gene_examples)),
        columns=", ".join(map(_code, facts.columns)),
        repo_id=repo_id,
        title=repo_id.split("/")[-1],
        description=given.get("description") or facts.description,
        package="mudata" if several else "anndata",
        reader='read_h5mu("cells.h5mu")' if several else 'read_h5ad("cells.h5ad")',
        reads={
            _code(where): what
            for where, what in (facts.modalities or {facts.where: kinds[facts.input]}).items()
        },
        ids=ids[facts.gene_ids],
        data=given.get("data"),
        data_table=_table([("", ""), *_data(facts, species)]),
        training_table=_table([("", ""), *_training(facts)]),
        evaluation=None if evaluation is None else _evaluation(evaluation),
        limits=_list(given.get("limits")),
        license=given.get("license"),
    )
    return f"{made.content.rstrip()}\n"


def has_tag(text: str) -> bool:
    """Whether the metadata of a card have the tag by which ``scssl.hub.list_models`` finds it."""
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(text, ignore_metadata_errors=True).data
    except Exception as error:  # of the client's YAML library, which is not ours to import
        # The hub would refuse it.
        where = "The metadata of the card, between the lines `---`"
        raise ValueError(f"{where}, are not a mapping in YAML: {error}") from error
    return TAG in (data.get("tags") or ()) or data.get("library_name") == TAG


def _check_fields(card: Any) -> dict[str, Any]:
    if not isinstance(card, Mapping):
        what = f"a text, a path or a dict of {', '.join(FIELDS)}"
        raise TypeError(f"`card` must be {what}; found {type(card).__name__}.")
    unknown = [name for name in card if name not in FIELDS]
    if unknown:
        raise ValueError(f"`card` has no field {unknown[0]!r}; there are {', '.join(FIELDS)}.")
    for name in ("description", "data", "license"):
        if not isinstance(card.get(name), str | None):
            found = type(card[name]).__name__
            raise TypeError(f"The field {name!r} of `card` must be a text, found {found}.")
    for name in ("species", "limits"):
        if not all(isinstance(text, str) for text in _list(card.get(name))):
            raise TypeError(f"The field {name!r} of `card` must be a text or a list of texts.")
    return dict(card)


def _data(facts: CardFacts, species: Sequence[str]) -> list[tuple[str, str]]:
    n_cells = facts.training.get("n_cells")
    kind = {"ensembl": "Ensembl ids", "symbol": "symbols", "unknown": "kind of name not known"}
    return [
        ("cells", "not recorded" if n_cells is None else f"{n_cells:,}"),
        ("genes", f"{facts.n_genes:,} ({kind[facts.gene_ids]})"),
        ("species", _plain(", ".join(species)) or "not given"),
        ("values", "raw counts" if facts.input == "counts" else "log-normalised"),
        *((what, ", ".join(map(_code, names))) for what, names in facts.trained_with.items()),
    ]


def _training(facts: CardFacts) -> list[tuple[str, str]]:
    rows = [
        ("architecture", _plain(facts.summary)),
        ("parameters", f"{facts.n_parameters:,}"),
        ("embedding", f"{facts.n_latent} dimensions"),
    ]
    if facts.source is not None:
        rows.append(("weights taken from", _plain(facts.source)))
    done = dict(facts.training)
    if "epochs" in done:
        best = f", best {done.pop('best_epoch')}" if "best_epoch" in done else ""
        rows.append(("epochs", f"{done.pop('epochs')}{best}"))
    if "best_loss" in done:
        rows.append(("best loss", _cell(done.pop("best_loss"))))
    done.pop("n_cells", None)
    rows += [(k.replace("_", " "), _plain(_cell(v))) for k, v in done.items() if v is not None]
    if facts.versions:
        rows.append(("versions", ", ".join(f"{n} {v}" for n, v in facts.versions.items())))
    return rows


def _evaluation(evaluation: Any) -> str:
    import pandas as pd

    frame = _as_frame(evaluation)
    named = frame.index.name is not None or not frame.index.equals(pd.RangeIndex(len(frame)))
    head = ([str(frame.index.name or "")] if named else []) + [str(name) for name in frame.columns]
    body = [
        ([_cell(label)] if named else []) + [_cell(value) for value in row]
        for label, row in zip(frame.index, frame.itertuples(index=False), strict=True)
    ]
    return _table([head, *body])


def _as_frame(evaluation: Any) -> pd.DataFrame:
    import pandas as pd

    if isinstance(evaluation, pd.DataFrame):
        frame = evaluation
    elif isinstance(evaluation, Mapping):
        nested = [isinstance(value, Mapping) for value in evaluation.values()]
        if any(nested) and not all(nested):
            raise TypeError("The evaluation must be a dict of numbers or of dicts, not a mixture.")
        if any(nested):
            frame = pd.DataFrame.from_dict(dict(evaluation), orient="index")
        else:
            frame = pd.DataFrame({"metric": list(evaluation), "value": list(evaluation.values())})
    else:
        found = type(evaluation).__name__
        raise TypeError(f"The evaluation must be a DataFrame or a dict, found {found}.")
    if frame.empty:
        raise ValueError("The evaluation is empty. Leave it out.")
    return frame


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in r] for r in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: Any) -> str:
    """Code span of a name, whatever is in it."""
    text = " ".join(str(text).split())
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}{text}{marks}" if len(marks) == 1 else f"{marks} {text} {marks}"


def _plain(text: str) -> str:
    """Text of which nothing is Markdown."""
    return re.sub(r"[\\`*\[\]<>~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _cell(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, default=str)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)


def _slug(name: str) -> str:
    """Tag of a name: ``MaskedAutoencoder`` is ``masked-autoencoder``."""
    spaced = "".join(
        f" {c}" if c.isupper() and i and name[i - 1].islower() else c for i, c in enumerate(name)
    )
    return "-".join(spaced.lower().replace("_", " ").replace("-", " ").split())
