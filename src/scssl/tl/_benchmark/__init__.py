"""Methods compared on the same cells, splits, seeds and labels, and what comes of it."""

from ._methods import saved_model, takes_argument
from ._metrics import METRICS, Metric, metric_of, score_label
from ._study import benchmark, read_results
from ._summary import arguments_of, benchmark_summary, tidy_results
from ._tasks import scib_metrics
