"""A diagnosis as a folder: plots, measurements, and one page with all of them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ostinato.errors import MissingExtra
from ostinato.files import atomic_file
from ostinato.insight.diagnosis import Diagnosis
from ostinato.insight.pictures import plot_flow, plot_influence, plot_layers, plot_unfolded
from ostinato.recurrence.layers import Recurrent
from ostinato.training.pictures import plot_curve
from ostinato.training.storage import to_json

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 1rem; }
.finding, .healthy, .unclear { border-left: 6px solid #D55E00; padding: .2rem 1rem; }
.finding, .healthy, .unclear { margin: 1rem 0; } .finding { background: #faf6f2; }
.unclear { border-color: #E69F00; background: #faf8f2; }
.healthy { border-color: #009E73; background: #f2faf6; }
img { max-width: 100%; } code, pre { background: #f4f4f4; padding: .1rem .3rem; }
pre { padding: .6rem; white-space: pre-wrap; }
"""


def write_report(found: Diagnosis, network: nn.Module, folder: Path, title: str) -> list[Path]:
    """Write a diagnosis into a folder, created if missing; return the files, the page first.

    ``index.html`` is a self-contained page with text, measurements and plots; ``diagnosis.json``
    holds the measurements. Without ``ostinato[plots]`` the page has no plots.

    Args:
        found: result of `diagnose`.
        network: the network diagnosed.
        folder: where to write; earlier files are replaced.
        title: title of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots: dict[str, bytes] = {}
    missing = ""
    try:
        for name, axes in _plots(found, network):
            picture = io.BytesIO()
            axes.figure.savefig(picture, dpi=120, format="png")
            plots[f"{name}.png"] = picture.getvalue()
    except MissingExtra as error:
        missing = str(error)
    page = _page(found, plots, title, missing).encode()
    files = {"index.html": page, "diagnosis.json": to_json(found.to_json()), **plots}
    for name, data in files.items():
        with atomic_file(folder / name) as out:
            out.write(data)
    return [folder / name for name in files]


def _plots(found: Diagnosis, network: nn.Module) -> Iterator[tuple[str, Any]]:
    if found.flow.layers:
        yield "gradient_by_lag", plot_flow(found.flow)
    if len(found.flow.layers) > 1:
        yield "gradient_by_layer", plot_layers(found.flow)
    if found.influence is not None and len(found.influence.lags) > 1:
        yield "input_influence", plot_influence(found.influence)
    if len([r for r in found.history if r.get("loss") is not None]) > 1:
        yield "learning_curve", plot_curve(found.history)
    if any(isinstance(module, Recurrent) for module in network.modules()):
        yield "unfolded", plot_unfolded(network)


def _page(found: Diagnosis, plots: dict[str, bytes], title: str, missing: str) -> str:
    escape = html.escape
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    if not found.findings:
        kind, text = "healthy" if found.healthy else "unclear", found.summary
        parts.append(f'<div class="{kind}"><p>{escape(text[:1].upper() + text[1:])}</p></div>')
    for finding in found.findings:
        items = (
            (f"<code>{escape(r.change)}</code> " if r.change else "")
            + escape(r.why + (f" ({r.gain})" if r.gain else ""))
            for r in finding.remedies
        )
        remedies = "".join(f"<li>{item}</li>" for item in items)
        weighed = "".join(f"<br>{escape(each)}" for each in finding.evidence)
        parts.append(
            f'<div class="finding"><h2>{finding.issue}</h2><p>{escape(finding.message)}{weighed}'
            f"</p><p>Remedies, the best first:</p><ul>{remedies}</ul></div>"
        )
    if found.candidates:
        less = "".join(
            f"<li>{c.issue} ({c.probability:.0%}): {escape(c.message)}</li>"
            for c in found.candidates
        )
        parts.append(f"<p>Less probable:</p><ul>{less}</ul>")
    measurements = "\n".join(found.measurements())
    parts.append(f"<pre>{escape(measurements)}</pre>")
    for name, data in plots.items():
        alt, code = Path(name).stem.replace("_", " "), base64.b64encode(data).decode()
        parts.append(f'<p><img alt="{alt}" src="data:image/png;base64,{code}"></p>')
    if missing:
        parts.append(f"<p>{escape(missing)}</p>")
    return "\n".join([*parts, "</body></html>", ""])
