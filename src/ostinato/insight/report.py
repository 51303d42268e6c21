"""A diagnosis as a folder: plots, measurements, and one page with all of them."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ostinato.errors import MissingExtra
from ostinato.files import atomic_file
from ostinato.insight.diagnosis import Diagnosis
from ostinato.insight.pictures import plot_flow, plot_influence, plot_layers, plot_unfolded
from ostinato.training.pictures import plot_curve

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 1rem; }
.finding, .healthy { border-left: 6px solid #D55E00; padding: .2rem 1rem; margin: 1rem 0; }
.finding { background: #faf6f2; } .healthy { border-color: #009E73; background: #f2faf6; }
img { max-width: 100%; } code, pre { background: #f4f4f4; padding: .1rem .3rem; }
pre { padding: .6rem; white-space: pre-wrap; }
"""


def write_report(found: Diagnosis, network: nn.Module, folder: Path, title: str) -> list[Path]:
    """Write a diagnosis into a folder, created if missing; earlier files are replaced.

    ``index.html`` is a self-contained page with text, measurements and plots; ``diagnosis.json``
    holds the measurements. Without ``ostinato[plots]`` the page has no plots.

    Args:
        found: result of `diagnose`.
        network: the network diagnosed.
        folder: where to write.
        title: title of the page.

    Returns:
        the files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots: dict[str, Path] = {}
    try:
        for name, axes in _plots(found, network):
            file = folder / f"{name}.png"
            with atomic_file(file) as out:
                axes.figure.savefig(out, dpi=120, format="png")
            plots[name] = file
        missing = ""
    except MissingExtra as error:
        missing = str(error)
    page = folder / "index.html"
    with atomic_file(page) as out:
        out.write(_page(found, plots, title, missing).encode())
    document = folder / "diagnosis.json"
    with atomic_file(document) as out:
        out.write((json.dumps(found.to_json(), indent=1) + "\n").encode())
    return [page, document, *plots.values()]


def _plots(found: Diagnosis, network: nn.Module) -> Iterator[tuple[str, Any]]:
    yield "gradient_by_lag", plot_flow(found.flow)
    if len(found.flow.layers) > 1:
        yield "gradient_by_layer", plot_layers(found.flow)
    if found.influence is not None and len(found.influence.lags) > 1:
        yield "input_influence", plot_influence(found.influence)
    if len([r for r in found.history if r.get("loss") is not None]) > 1:
        yield "learning_curve", plot_curve(found.history)
    yield "unfolded", plot_unfolded(network)


def _page(found: Diagnosis, plots: dict[str, Path], title: str, missing: str) -> str:
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    if found.healthy:
        parts.append('<div class="healthy"><p>Healthy: no issue was found.</p></div>')
    for finding in found.findings:
        remedies = "".join(
            f"<li><code>{html.escape(r.flag)}</code> {html.escape(r.why)}</li>"
            for r in finding.remedies
        )
        parts.append(
            f'<div class="finding"><h2>{html.escape(finding.issue)}</h2>'
            f"<p>{html.escape(finding.message)}</p><p>Remedies, the best first:</p>"
            f"<ul>{remedies}</ul></div>"
        )
    parts.append(f"<pre>{html.escape(chr(10).join(found.measurements()))}</pre>")
    for name, file in plots.items():
        data = base64.b64encode(file.read_bytes()).decode()
        alt = name.replace("_", " ")
        parts.append(f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>')
    if missing:
        parts.append(f"<p>{html.escape(missing)}</p>")
    return "\n".join([*parts, "</body></html>", ""])
