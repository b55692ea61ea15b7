"""`edgeinfer bench speculation`: is it faster on than off, and never slower?

`measure` runs the prompts on every one of the `sides` of a model and keeps `records`; `report` makes rows of them,
`ceiling` says what was to be had, `targets` judges, `text` and `plot` show. `models` writes the files of the report.
"""

from edgeinfer.bench.speculation.measure import add_arguments, run

__all__ = ["add_arguments", "run"]
