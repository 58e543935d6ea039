#!/usr/bin/env python3
"""A scenario as a picture: what has left the origin beside the bound, and who stood still."""

from html import escape

import figures

WIDTH, HEIGHT, LEFT, RIGHT, GAP = 760, 230, 62, 16, 58
TOP = 56
COLOURS = ("#1b6ca8", "#c8553d", "#4a8f4d", "#8e5ea2", "#b8860b", "#3aa6a6", "#7a5c3e", "#d06a9c")
STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}"
    ".grid{stroke:#ddd}.axis{stroke:#333}.line{fill:none;stroke-width:1.6}"
    ".bound{fill:none;stroke:#777;stroke-width:1.2;stroke-dasharray:5 4}"
)


def scenario(title, runs):
    """SVG text; `runs` are raw results, one a seed."""
    ends = max(figures.end_s(run) for run in runs)
    origin = [figures.origin_curve(run) for run in runs]
    bounds = [[(t, b / run["film_bytes"]) for t, b in run["bound"]] for run in runs]
    stalls = [figures.stall_curve(run) for run in runs]
    height = TOP + 2 * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>',
    ]
    at = LEFT
    for nth, run in enumerate(runs):
        label = f"seed {run['seed']}"
        parts.append(f'<rect x="{at}" y="29" width="14" height="3" fill="{_colour(nth)}"/>')
        parts.append(f'<text x="{at + 18}" y="35">{label}</text>')
        at += 70
    parts.append(f'<path class="bound" d="M{at} 31h22"/><text x="{at + 27}" y="35">bound</text>')
    parts += _panel(TOP, "copies of the film from the origin", ends, origin, bounds)
    parts += _panel(TOP + HEIGHT + GAP, "seconds stalled, all viewers", ends, stalls, [])
    return "\n".join([*parts, "</svg>", ""])


def _panel(top, label, ends, lines, bounds):
    most = max((value for line in lines + bounds for _, value in line), default=0)
    steps = _steps(most or 1.0)
    high = max(steps[-1], most) or 1.0
    bottom = top + HEIGHT
    x = lambda t: LEFT + min(t, ends) / ends * (WIDTH - LEFT - RIGHT)
    y = lambda v: bottom - v / high * (HEIGHT - 22)
    parts = [f'<text x="{LEFT}" y="{top + 10}">{escape(label)}</text>']
    for step in steps:
        parts.append(f'<path class="grid" d="M{LEFT} {y(step):.1f}H{WIDTH - RIGHT}"/>')
        at = f'x="{LEFT - 6}" y="{y(step) + 4:.1f}"'
        parts.append(f'<text {at} text-anchor="end">{step:g}</text>')
    for step in _steps(ends):
        parts.append(f'<path class="axis" d="M{x(step):.1f} {bottom}v4"/>')
        parts.append(
            f'<text x="{x(step):.1f}" y="{bottom + 17}" text-anchor="middle">{step:g} s</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
    for line in bounds:
        parts.append(f'<path class="bound" d="{_path(line, x, y)}"/>')
    for nth, line in enumerate(lines):
        parts.append(f'<path class="line" stroke="{_colour(nth)}" d="{_path(line, x, y)}"/>')
    return parts


def _path(line, x, y):
    """Points that continue a level are left out."""
    kept = [
        point for nth, point in enumerate(line)
        if nth in (0, len(line) - 1)
        or point[1] != line[nth - 1][1] or point[1] != line[nth + 1][1]
    ]
    return "M" + "L".join(f"{x(t):.1f} {y(v):.1f}" for t, v in kept)


def _colour(nth):
    return COLOURS[nth % len(COLOURS)]


def _steps(most):
    """Round values from 0 to `most`, six or fewer."""
    size = 10 ** -3
    while True:
        for step in (size, 2 * size, 5 * size):
            if most / step <= 6:
                return [round(n * step, 6) for n in range(int(most / step + 1e-9) + 1)]
        size *= 10
