"""The pure choice: device + catalogue + request -> Plan."""

from edgeinfer.plan.as_json import to_json
from edgeinfer.plan.choose import make_plan
from edgeinfer.plan.defaults import default_capabilities
from edgeinfer.plan.estimate import PREFILL_ROWS, kv_bytes
from edgeinfer.plan.explain import explain
from edgeinfer.plan.reasons import SLOW
from edgeinfer.plan.types import Capabilities, Estimate, Plan, Rejection, Request, SpeculationPlan

__all__ = [
    "PREFILL_ROWS",
    "SLOW",
    "Capabilities",
    "Estimate",
    "Plan",
    "Rejection",
    "Request",
    "SpeculationPlan",
    "default_capabilities",
    "explain",
    "kv_bytes",
    "make_plan",
    "to_json",
]
