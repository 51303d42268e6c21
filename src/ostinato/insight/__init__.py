"""Inspect a network: gradient flow, input influence, gates, diagnosis and plots."""

from ostinato.insight.diagnosis import Diagnosis, Finding, Issue, Remedy, Thresholds, diagnose
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
from ostinato.insight.influence import InputInfluence, input_influence
from ostinato.insight.pictures import (
    plot_flow,
    plot_gate,
    plot_influence,
    plot_layers,
    plot_unfolded,
    plot_unit,
)
from ostinato.insight.report import write_report
from ostinato.training.pictures import plot_curve

__all__ = [
    "Diagnosis",
    "Finding",
    "Gates",
    "GradientFlow",
    "Growth",
    "InputInfluence",
    "Issue",
    "LayerFlow",
    "LayerGates",
    "Remedy",
    "Thresholds",
    "Unit",
    "diagnose",
    "gates",
    "gradient_flow",
    "input_influence",
    "inside_quotes",
    "labels_of",
    "overlay",
    "plot_curve",
    "plot_flow",
    "plot_gate",
    "plot_influence",
    "plot_layers",
    "plot_unfolded",
    "plot_unit",
    "position_in_line",
    "write_report",
]
