"""What all families of models have in common."""

from __future__ import annotations

from ._arguments import NotOffered, explained, known_arguments
from ._backbone import Backbone, copied, gene_columns, known_genes
from ._components import principal_axes, some_of
from ._datasets import DatasetsMixin
from ._folder import SOURCE, check_unused, foreign, from_foreign
from ._labels import check_label_column, checked_weights, label_codes, trained_classes
from ._model import SETUP, SSLModel
from ._options import (
    Count,
    NotNegative,
    Options,
    Positive,
    Rate,
    Share,
    Widths,
    checked,
    documented,
    list_options,
    option,
    takes,
)
from ._registry import get_model_class, list_models, register_model
from ._setup import (
    CellReader,
    DataSetup,
    ModalitySetup,
    as_strings,
    categories_of,
    check_like,
    decide_input,
    matrix_of,
    refuse_missing,
)
from ._setup_method import SetupArgument
from ._start import StartsFromEncoder, backbone_of, resolve
from ._stores import STORE_SAMPLES, StoresMixin
from ._tissue import (
    GRAPH,
    TISSUE,
    context_of,
    panels,
    record_tissue,
    tell_tissue,
)
