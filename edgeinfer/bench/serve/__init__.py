"""`edgeinfer bench serve`: this server and llama.cpp's, on the same file and with the same clients in turn.

`servers` starts them, `client` reads answers as they stream, `workloads` says what clients do, `measure` runs the
workloads in pairs, `ceiling` finds what the engine alone allows, `report` and `plot` show it.
"""

from edgeinfer.bench.serve.command import add_arguments, run

__all__ = ["add_arguments", "run"]
