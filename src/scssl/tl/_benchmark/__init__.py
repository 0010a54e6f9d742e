"""Methods against each other on the same cells, and what comes of it."""

from ._metrics import METRICS, metric_of, score_label
from ._summary import TASKS, arguments_of, benchmark_summary, check_results, name_methods
