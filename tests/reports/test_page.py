"""What a page makes of hostile texts."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from sgpo.reports.page import BASE_SCRIPT, page, script_json, shown_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("a\x00b\x1b[2J", "a␀b␛[2J"),
        ("x\u202eevil\u2066", "x⟨U+202E⟩evil⟨U+2066⟩"),
        ("\u200b\ufeff\x7f\x85", "⟨U+200B⟩⟨U+FEFF⟩␡⟨U+0085⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("שלום العربية", "שלום العربية"),
    ],
)
def test_what_hides_or_reorders_is_shown(text: str, shown: str) -> None:
    assert shown_text(text) == shown


def test_json_of_a_script_element() -> None:
    hostile = {"a": "</script><script>alert(1)</script><!--", "b": "\u2028&amp;", "é": [1.5, None]}
    text = script_json(hostile)
    assert json.loads(text) == hostile
    assert not re.search(r"[<>&]|[^\x00-\x7f]", text)
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


def test_only_the_own_script_may_run() -> None:
    text = page("<b>\x00", "<main></main>", style="p{}", script="start()", data={"x": "</script>"})
    assert "<title>&lt;b&gt;␀</title>" in text
    digest = base64.b64encode(hashlib.sha256((BASE_SCRIPT.read_text() + "start()").encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    assert text.count("</script>") == 2
    assert not re.search(r"https?://|src=|href=", text)
