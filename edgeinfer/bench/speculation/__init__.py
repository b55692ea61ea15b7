"""`edgeinfer bench speculation`: the same prompts with speculation on and off.

`measure` runs the prompts on every one of the `sides` of a model and keeps `records`; `report` makes rows of them;
`text` and `plot` show the rows.
"""

from edgeinfer.bench.speculation.measure import add_arguments, run

__all__ = ["add_arguments", "run"]
