"""The pure choice: device + catalog + facts of the backends + request -> Plan."""

from edgeinfer.plan.choose import make_plan
from edgeinfer.plan.facts import BackendFacts, Capabilities, Probe
from edgeinfer.plan.report import explain, to_json
from edgeinfer.plan.types import Estimate, Plan, PlannedFile, Rejection, Request, SpeculationPlan

__all__ = [
    "BackendFacts",
    "Capabilities",
    "Estimate",
    "Plan",
    "PlannedFile",
    "Probe",
    "Rejection",
    "Request",
    "SpeculationPlan",
    "explain",
    "make_plan",
    "to_json",
]
