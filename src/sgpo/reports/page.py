"""One HTML file that needs nothing else: the foundation of every report that is read in a browser.

Colours in light and dark, fonts, and the way in which texts and data get into the page stand here alone. Nothing of a
page comes from the network, and its content security policy forbids it to; only the page's own script runs.

Texts of models and data are hostile until shown otherwise. Data travel as JSON in which no "<" stands, a page's script
puts them in as text, never as HTML, and `shown_text` makes visible what would reorder or hide other text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgpo.reports.style import BLUE, ORANGE

BASE_STYLE, BASE_SCRIPT = Path(__file__).with_name("page.css"), Path(__file__).with_name("page.js")
LEVELS = 8  # of a colour scale; the first one is the page itself
# C0 and C1 control characters but tab and line feed, what changes the direction of other text, what has no width, and
# surrogates, which no file can hold.
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
# Hue (degrees) of the lowest and of the highest level, in OKLCH, whose lightness is even to the eye.
HUES = {"warm": (92, 38), "blue": (240, 258), "green": (180, 160)}


def shown_text(text: str) -> str:
    """The text with a visible sign in place of each character that hides or reorders others.

    Example: a null byte becomes "␀", and a right-to-left override "⟨U+202E⟩". Right-to-left letters stay what they are.
    """
    return INVISIBLE.sub(lambda match: _sign(ord(match[0])), text)


def _sign(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: ASCII without "<", ">" and "&"."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page(title: str, body: str, *, style: str, script: str, data: Mapping[str, Any]) -> str:
    """A page as HTML.

    Args:
        title: any text.
        body: HTML of ours, with no text of models or data.
        style, script: CSS and JavaScript, after those of all pages (page.css, page.js).
        data: by the id of the script element from which the page's script reads it as JSON.
    """
    script = BASE_SCRIPT.read_text(encoding="utf-8") + script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    elements = "\n".join(
        f'<script type="application/json" id="{html.escape(name)}">{script_json(value)}</script>'
        for name, value in data.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(shown_text(title))}</title>
<style>{common_style()}{style}</style>
</head>
<body>
{body}
{elements}
<script>{script}</script>
</body>
</html>
"""


def common_style() -> str:
    """The CSS of all pages: page.css, and the colour scales: classes ``l1`` to ``l7`` within ``[data-scale=NAME]``."""
    scales = _scales(dark=False) + _media_dark(_scales(dark=True))
    return f":root{{--first:{ORANGE};--second:{BLUE}}}{BASE_STYLE.read_text(encoding='utf-8')}{scales}"


def _media_dark(rules: str) -> str:
    return f"@media (prefers-color-scheme: dark){{{rules}}}"


def _scales(*, dark: bool) -> str:
    """Lightness in even steps, from the page towards strong colours; the text on them is the darker or lighter one."""
    rules = ""
    for name, (low, high) in HUES.items():
        for level in range(1, LEVELS):
            share = (level - 1) / (LEVELS - 2)
            lightness = 0.30 + 0.52 * share if dark else 0.955 - 0.475 * share
            chroma = 0.045 + 0.115 * min(1.0, share * 1.4)
            hue = high + (low - high) * share if dark and name == "warm" else low + (high - low) * share
            ink = (
                ("#fff" if lightness < 0.62 else "#111") if not dark else ("#f4f4f2" if lightness < 0.6 else "#0d0d0c")
            )
            rules += (
                f"[data-scale={name}] .l{level}"
                f"{{background-color:oklch({lightness:.3f} {chroma:.3f} {hue:.0f});color:{ink}}}"
            )
    return rules
