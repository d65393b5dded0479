"""Draws groups of horizontal bars as an SVG: light or dark as the reader's page is, readable without colour."""

import collections
import xml.sax.saxutils

# Seconds of the process and of the sync after it; the range of their sum; whether it is ours.
Bar = collections.namedtuple("Bar", "name wall sync low high ours")

WIDTH, LEFT, RIGHT, ROW = 760, 130, 70, 20
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 } .note { fill: #59636e } .image { font-weight: 600 }
  .ours { fill: #0969da } .peer { fill: #8c959f } .sync { opacity: .45 } .range { stroke: #1f2328; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 } .ours { fill: #4493f8 } .peer { fill: #656c76 } .range { stroke: #e6edf3 }
  }"""


def escape(text):
    return xml.sax.saxutils.escape(str(text))


def chart(title, subtitle, footer, groups):
    """`groups` is a list of (name, note, bars); each group has a scale of its own."""
    parts, y = [], 24

    def text(x, y, words, kind="", anchor="start"):
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    text(12, y, title, "title")
    text(12, y + 20, subtitle, "note")
    y += 38
    for name, note, bars in groups:
        if not bars:
            continue
        text(12, y + 14, name, "image")
        text(LEFT, y + 14, note, "note")
        y += 24
        scale = (WIDTH - LEFT - RIGHT) / max(max(bar.high, bar.wall + bar.sync) for bar in bars)
        for bar in bars:
            kind, middle = "ours" if bar.ours else "peer", y + ROW / 2
            wall, sync = bar.wall * scale, bar.sync * scale
            text(LEFT - 8, middle + 4, bar.name, "image" if bar.ours else "", "end")
            parts.append(f'<rect x="{LEFT}" y="{y + 3}" width="{wall:.1f}" height="{ROW - 6}" class="{kind}"/>')
            parts.append(f'<rect x="{LEFT + wall:.1f}" y="{y + 3}" width="{sync:.1f}" height="{ROW - 6}" class="{kind} sync"/>')
            low, high = LEFT + bar.low * scale, LEFT + bar.high * scale
            parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" class="range"/>')
            text(max(high, LEFT + wall + sync) + 6, middle + 4, f"{bar.wall + bar.sync:.2f} s")
            y += ROW
        y += 10
    text(12, y + 12, "dark: the process; light: the sync that its data still needs; line: range of the rounds", "note")
    text(12, y + 30, footer, "note")
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 42}" width="{WIDTH}" height="{y + 42}" role="img">\n'
            f"<title>{escape(title)}: {escape(subtitle)}</title>\n<style>{STYLE}\n</style>\n{body}\n</svg>\n")
