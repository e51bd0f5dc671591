#!/usr/bin/env python3
"""Takes a drawing out of a report that `dimslab compare` wrote: .ci/plot.py REPORT.html TITLE OUT.svg

TITLE is the beginning of the drawing's heading. What the page has beside the drawing, its heading and the colours' keys, is put
above it, on a white ground, so that the file is whole by itself: the plots of docs/accuracy.md are made so."""

import html
import re
import sys

ABOVE = 44  # units added above the drawing


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    report, title, out = sys.argv[1:]
    with open(report, encoding="utf-8") as file:
        sections = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", file.read(), re.S)
    drawings = [(name, body) for name, body in sections if "<svg" in body]
    found = next(((name, body) for name, body in drawings if html.unescape(name).startswith(title)), None)
    if found is None:
        names = "\n  ".join(html.unescape(name) for name, _ in drawings)
        sys.exit(f"{report} has no drawing whose heading begins with `{title}`, but\n  {names}")
    name, body = found
    drawing = re.search(r"<svg.*</svg>", body, re.S)[0]
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', drawing).groups())
    lines = [f'<rect width="{width}" height="{height + ABOVE}" fill="#FFFFFF"/>',
             f'<text x="8" y="17" font-family="sans-serif" font-size="14" fill="#333333">{name}</text>']
    x = 8
    for color, key in re.findall(r'background:(#[0-9a-f]{6})"></i>(.*?) <b>', body):
        lines.append(f'<rect x="{x}" y="29" width="14" height="4" fill="{color}"/>')
        lines.append(f'<text x="{x + 18}" y="35" font-family="sans-serif" font-size="12" fill="#333333">{key}</text>')
        x += 18 + 7 * len(html.unescape(key)) + 14
    drawing = re.sub(r"<svg [^>]*>", f'<svg y="{ABOVE}" width="{width}" height="{height}">', drawing, count=1)
    with open(out, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + ABOVE}" '
                   f'width="{width}" height="{height + ABOVE}">\n' + "\n".join(lines) + f"\n{drawing}\n</svg>\n")


main()
