"""The token view as a part of a page: an answer token by token, with its steps and the distributions of each token.

Its script defines `tokenView(index, answerOf)`, which a page's own script calls. What it draws of an answer is what
`sgpo.inspection.page.answer_data` makes; a page has one token view, which shows one of the answers at a time.
"""

from __future__ import annotations

from pathlib import Path

PLACE = "<!-- the token view -->"  # where a page's HTML has it
EXPLAINED = (
    "dₜ = KL( with strategy ‖ without ) of the next-token distributions, in nats, over the full vocabulary at "
    "temperature 1 (Eq. 3). Tokens above δ are left out of the distillation (Eq. 5) and underlined with a wave. "
    "SFT loss = −log p of the token without the strategy. Bars of all steps have one scale."
)


def token_view(kind: str) -> str:
    """Its "html", "css" or "js"; the HTML belongs into a page's at `PLACE`, the others before the page's own."""
    return Path(__file__).with_suffix(f".{kind}").read_text(encoding="utf-8")
