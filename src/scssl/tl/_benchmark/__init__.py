"""Methods against each other on the same cells, and what comes of it."""

from ._metrics import METRICS, Metric, metric_of, score_label
from ._summary import arguments_of, benchmark_summary, tidy_results
