"""Methods against each other on the same cells, and what comes of it."""

from ._metrics import METRICS, Metric, score_label
from ._summary import arguments_of, benchmark_summary, tidy_results
