"""Problems with checkable answers: the record, reading them, and finding those that cannot be used."""

from sgpo.problems.loading import columns_from_pairs, load_problems, problems_from, problems_to_dataset, save_problems
from sgpo.problems.record import Problem

__all__ = [
    "Problem",
    "columns_from_pairs",
    "load_problems",
    "problems_from",
    "problems_to_dataset",
    "save_problems",
]
