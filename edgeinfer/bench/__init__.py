"""Measurements of this machine, one module for each `edgeinfer bench` command."""
