"""Figures as people read them, and text that stays text."""

import pytest

from tenants.console import figures_text as say
from tenants.console.markup import Html, bar, data_path, link, table, tag, tenant_path


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (say.count(None), say.NONE),
        (say.count(0), "0"),
        (say.count(999), "999"),
        (say.count(1234), "1.23 k"),
        (say.count(35_400_000), "35.4 M"),
        (say.rate(0.5), "0.5/s"),
        (say.share(0.0), "0 %"),
        (say.share(0.0004), "< 0.1 %"),
        (say.share(0.123), "12.3 %"),
        (say.duration(0), "0 s"),
        (say.duration(0.00045), "450 µs"),
        (say.duration(0.0123), "12.3 ms"),
        (say.duration(1.5), "1.5 s"),
        (say.duration(7200), "7200 s"),
        (say.quantile(0.05, 0.1), "< 100 ms"),
        (say.quantile(0.2, 0.1), "200 ms"),
        (say.quantile(None, 0.1), say.NONE),
        (say.size(512), "512 B"),
        (say.size(1536), "1.5 KiB"),
        (say.size(5 * 1024**3), "5 GiB"),
    ],
)
def test_figures(said: str, expected: str) -> None:
    assert said == expected


def test_what_comes_from_outside_is_escaped_everywhere() -> None:
    evil = '"><script>alert(1)</script>'
    shown = table([evil], [[evil, tag(evil, "good"), bar(1, 2, evil), link(evil, tenant_path(evil, "graph"))]])
    assert "<script" not in shown
    assert "<script" not in data_path("red", evil, service=evil)
    assert isinstance(shown, Html)


def test_a_bar_says_when_a_limit_is_near() -> None:
    assert 'class="bar "' in bar(1, 10, "1")
    assert 'class="bar poor"' in bar(8, 10, "8")
    assert 'class="bar bad"' in bar(12, 10, "12")
    assert "bar" not in bar(5, 0, "5")
