"""Latencies of all scripts and deployments as one SVG: a bar from median to 99th percentile, on a log scale."""

import html
import math

from page import called
from servers import DEPLOYMENTS

COLOURS = dict(zip(DEPLOYMENTS, ["#1b7f5c", "#3565c4", "#c2570c", "#6bbf9f", "#8fb0f0", "#f0a468"]))
GREY = "#80868E"
LEFT, WIDTH, ROW, GAP, TOP = 200, 760, 11, 14, 66
PANELS = [
    ("publish", "publish"), ("fetch", "fetch"), ("subscribe", "publish to delivery"),
    ("mixed", "publish"), ("mixed", "fetch"), ("mixed", "publish to delivery"),
    ("spike", "publish before"), ("spike", "publish within"), ("spike", "publish after"),
]


def text(x, y, words, anchor="start", size=11):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-family="sans-serif" font-size="{size}" fill="{GREY}">{html.escape(words)}</text>'


def draw(found):
    """The SVG; its scale reaches from the power of ten below the smallest to that above the largest."""
    rows = [(script, latency, [(name, found[name]["scripts"][script]["latencies_ms"][latency]) for name in found if script in found[name]["scripts"]]) for script, latency in PANELS]
    rows = [row for row in rows if row[2]]
    values = [max(value, 0.01) for _, _, bars in rows for _, triple in bars for value in triple]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    at = lambda value: LEFT + (WIDTH - LEFT - 20) * (math.log10(max(value, 10**low)) - low) / (high - low)  # noqa: E731
    bottom = TOP + sum(len(bars) * ROW + GAP for _, _, bars in rows)
    parts = [text(LEFT, 16, "k6: median (dot), 95th (tick) and 99th percentile (end of the bar), in milliseconds", size=12)]
    for place, name in enumerate(found):
        x, y = LEFT - 60 + 215 * (place % 3), 34 + 15 * (place // 3)
        parts += [f'<rect x="{x}" y="{y - 8}" width="10" height="8" fill="{COLOURS[name]}"/>', text(x + 15, y, called(name), size=10)]
    for power in range(low, high + 1):
        for step in range(1, 10 if power < high else 2):
            x = at(step * 10**power)
            parts += [f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{bottom}" stroke="{GREY}" stroke-width="1" opacity="{0.5 if step == 1 else 0.12}"/>']
        parts += [text(at(10**power), bottom + 14, f"{10**power:g}", "middle")]
    y = TOP
    for script, latency, bars in rows:
        middle = y + len(bars) * ROW / 2 + 4
        parts += [text(LEFT - 12, middle, f"{script}.js: {latency}", "end")]
        for name, (median, high_percentile, highest) in bars:
            centre, colour = y + ROW / 2, COLOURS[name]
            begin, mark, end = at(median), at(high_percentile), at(highest)
            parts += [f'<line x1="{begin:.1f}" y1="{centre}" x2="{end:.1f}" y2="{centre}" stroke="{colour}" stroke-width="4"/>',
                      f'<circle cx="{begin:.1f}" cy="{centre}" r="4" fill="{colour}"/>',
                      f'<line x1="{mark:.1f}" y1="{centre - 4.5}" x2="{mark:.1f}" y2="{centre + 4.5}" stroke="{colour}" stroke-width="2"/>']
            y += ROW
        y += GAP
    return f'<svg width="{WIDTH}" height="{bottom + 22}" viewBox="0 0 {WIDTH} {bottom + 22}" xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(parts) + "\n</svg>\n"
