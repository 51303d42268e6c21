"""What a network learnt and how it learns: gradient flow, memory, gates, diagnosis, pictures."""

from ostinato.insight.diagnosis import Diagnosis, Finding, Remedy, Thresholds, diagnose
from ostinato.insight.flow import GradientFlow, Growth, LayerFlow, gradient_flow
from ostinato.insight.gates import (
    Gates,
    LayerGates,
    Unit,
    gates,
    inside_quotes,
    labels_of,
    overlay,
    position_in_line,
)
from ostinato.insight.memory import Memory, memory
from ostinato.insight.pictures import (
    plot_curve,
    plot_flow,
    plot_gate,
    plot_layers,
    plot_memory,
    plot_unfolded,
    plot_unit,
)
from ostinato.insight.report import write_report

__all__ = [
    "Diagnosis",
    "Finding",
    "Gates",
    "GradientFlow",
    "Growth",
    "LayerFlow",
    "LayerGates",
    "Memory",
    "Remedy",
    "Thresholds",
    "Unit",
    "diagnose",
    "gates",
    "gradient_flow",
    "inside_quotes",
    "labels_of",
    "memory",
    "overlay",
    "plot_curve",
    "plot_flow",
    "plot_gate",
    "plot_layers",
    "plot_memory",
    "plot_unfolded",
    "plot_unit",
    "position_in_line",
    "write_report",
]
