"""Measurements that a command writes down."""
