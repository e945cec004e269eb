"""Colours and letters of pages and pictures, for light and for dark screens."""

from __future__ import annotations

COLOURS = """
:root { color-scheme: light dark; --paper: #fcfcfb; --card: #ffffff; --ink: #1d2126; --faint: #6b7480; --line: #e3e6ea;
  --accent: #2563a8; --warn: #b4440f; --c0: #2563a8; --c1: #c2571a; --c2: #2b8a57; --c3: #8a4fa3; --c4: #a8812a;
  --c5: #4b5563; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1b1f25; --ink: #e4e7eb; --faint: #949ea9;
  --line: #323841; --accent: #7ab3ee; --warn: #f19a66; --c0: #7ab3ee; --c1: #f0a06b; --c2: #74cf9d; --c3: #cf9fe6;
  --c4: #e0c070; --c5: #a8b2bd; } }
"""
"""Custom properties: paper, ink, lines, and six colours that can be told apart."""

NUM_COLOURS = 6

DRAWING = """
svg { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .faint { fill: var(--faint); }
svg .warn { fill: var(--warn); }
svg .title { font-weight: 600; font-size: 13px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .outline { fill: none; stroke: var(--warn); stroke-width: 2; }
svg .cell { fill: var(--accent); }
svg .ground { fill: var(--line); fill-opacity: .35; }
svg .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
svg .spot { fill-opacity: 0; stroke: none; }
svg .spot:hover { fill-opacity: 1; }
svg .on { fill: var(--card); font-weight: 600; }
"""
"""What the charts' classes look like."""
