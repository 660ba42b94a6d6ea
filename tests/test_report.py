"""The report, as a browser shows it."""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixnoise import get_noise
from mixnoise.plots import plot_embeddings, plot_history
from mixnoise.report import write_report
from mixnoise.report.figures import curves, projection
from mixnoise.sklearn import DACLEncoder

N = 120


def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "height <m>": np.where(rng.random(N) < 0.1, np.nan, rng.normal(170, 8, N)),
            "born": pd.Timestamp("1990-01-01") + pd.to_timedelta(rng.integers(9999, size=N), "D"),
            "color": rng.choice(["red", "blue", "green & gold"], N),
            "id": [f"row {i}" for i in range(N)],
        }
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report.html"
    X = table()
    encoder = DACLEncoder(16, max_iter=4, batch_size=32, random_state=0).fit(X)
    labels = np.array(["yes", "no", None] * (N // 3), dtype=object)
    write_report(path, encoder, X, 12_345, "A <table>", "mixnoise pretrain 'a b.csv'", labels)
    return path


class Outline(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [v for k, v in attributes if k == "id"]
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href")]


def test_one_file_that_fetches_nothing(report):
    text = report.read_text()
    outline = Outline(text)
    assert all(link.startswith("#") for link in outline.links)
    assert not {"script", "link", "img", "iframe"} & set(outline.tags)
    assert "@import" not in text
    assert "url(http" not in text
    assert outline.tags.count("svg") == 4 + 2
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]


def test_what_it_says(report):
    text = report.read_text()
    assert "<title>A &lt;table&gt;</title>" in text
    assert "12,345 rows, 4 epochs" in text
    assert "<pre>mixnoise pretrain &#39;a b.csv&#39;</pre>" in text
    assert "height &lt;m&gt;" in text
    assert "has no value twice, as names or identifiers" in text
    for title in ("NT-Xent loss", "RankMe", "Alignment", "Uniformity", "Columns, before"):
        assert f'aria-label="{title}' in text
    for noise in ("the rows themselves", "linear", "geometric", "binary", "dacl+", "gaussian"):
        assert f"<h3>{noise}</h3>" in text
    # Rows in the units of the table, and what noise made of them.
    first = table().iloc[0]
    body, mixed = text.split("<h3>")[1:3]
    assert body.startswith("the rows themselves")
    assert mixed.startswith("dacl+")  # what was trained with
    shown = re.findall(r"<td>(.*?)</td>", body)[:3]
    assert float(shown[0]) == pytest.approx(first["height <m>"], rel=1e-3)
    assert pd.Timestamp(shown[1]) == pytest.approx(first["born"], abs=pd.Timedelta("2D"))
    assert shown[2] == first["color"].replace("&", "&amp;")
    assert 'class="changed"' not in body
    assert 'class="changed"' in mixed
    assert ">missing<" in text


def test_a_noise_of_the_callers_own_comes_first(tmp_path):
    X = table()
    noise = get_noise("gaussian", sigma=0.01)
    encoder = DACLEncoder(8, noise=noise, max_iter=1, batch_size=32, random_state=0).fit(X)
    write_report(tmp_path / "r.html", encoder, X, N, "t", "c", None)
    text = (tmp_path / "r.html").read_text()
    assert re.findall(r"<h3>(.*?)</h3>", text)[1] == "gaussian"


def test_curves_only_of_what_there_is():
    history = [{"epoch": 1, "loss": 2.0}]
    assert len(curves(history)) == 1
    history = [{"epoch": e, "loss": 2.0, "validation_loss": 1.0, "rankme": 3.0} for e in (1, 2)]
    found = curves(history)
    assert len(found) == 2
    assert "held-out rows" in found[0]
    assert found == curves(history)  # byte for byte
    assert "#010203" not in found[0]


@pytest.mark.parametrize(
    ("labels", "legend"),
    [
        (None, []),
        (["a", "b"] * 20, ["a", "b"]),
        ([True, False] * 20, ["False", "True"]),
        ([f"class {i % 13}" for i in range(40)], ["others", "class 0"]),
        ([None, "b"] * 20, ["missing", "b"]),
        (list(np.arange(40.0)), []),
    ],
    ids=["none", "two", "bool", "many", "missing", "numbers"],
)
def test_colours_of_labels(labels, legend):
    features = np.random.default_rng(0).normal(size=(40, 5))
    svg = projection("Rows", features, labels)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert set(legend) <= set(texts)
    assert len([t for t in texts if t.startswith("class")]) <= 10
    assert projection("Rows", features[:2, :1], None if labels is None else labels[:2])


@pytest.mark.parametrize("features", [np.ones((40, 5)), np.arange(40.0)[:, None] * np.ones(5)])
def test_features_that_have_collapsed(features):
    assert "<svg" in projection("Rows", features)


def chromium():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:  # which .ci/run installs
        pytest.skip("no Chromium: apt-get install chromium")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
        sandbox = ("--no-sandbox",) if os.getuid() == 0 else ()
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=[*sandbox, "--disable-gpu", *quiet]
        )
        yield browser
        browser.close()


def luminance(color):
    """Of an rgb(...) as a browser computes it; W3C's relative luminance."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_in_a_browser(browser, report, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(Path(report).as_uri())
    assert problems == []
    assert requests == [Path(report).as_uri()]
    # Nothing sticks out, and nothing lies on something else.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    boxes = page.evaluate(
        "[...document.querySelectorAll('.figures svg')].map(e => {"
        "const b = e.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom]})"
    )
    assert len(boxes) == 6
    for i, (left, right, top, bottom) in enumerate(boxes):
        assert 0 <= left < right <= width
        assert right - left > 250
        for other in boxes[i + 1 :]:
            apart = right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
            assert apart
    columns = len({round(box[0]) for box in boxes[:4]})
    assert columns == (1 if width == 360 else 3)
    # Text is readable on its ground, in the page and in figures: 7:1 is W3C's AAA.
    ink, ground, axis = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('svg text')).fill]"
    )
    for color in (ink, axis):
        low, high = sorted((luminance(color), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) > 7
    assert (luminance(ground) < 0.1) == (scheme == "dark")
    page.close()


def test_dollars_and_underscores_in_names_are_shown(tmp_path):
    names = ["$10_$20", "US$ & C$", "_hidden", "plain"]
    svg = projection("t", np.random.default_rng(0).normal(size=(40, 4)), names * 10)
    for name in names:
        assert name.replace("&", "&amp;") in svg
    plot_embeddings({"$a$ $": np.ones((40, 3))}, names * 10, tmp_path / "e.svg")
    assert (tmp_path / "e.svg").stat().st_size > 0


@pytest.mark.parametrize("features", [np.ones((60, 5)), np.eye(20), np.arange(60.0)[:, None]])
def test_embeddings_that_have_collapsed_or_are_few(tmp_path, features):
    plot_embeddings({"a": features}, np.arange(len(features)) % 3, tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 0


def test_a_history_of_one_epoch_is_a_point(tmp_path):
    plot_history({"a": [{"epoch": 1, "loss": 2.0}], "b": []}, tmp_path / "h.svg")
    assert "<use" in (tmp_path / "h.svg").read_text()  # the marker
    plot_history({"a": [{"epoch": 1, "loss": 2.0}]}, tmp_path / "without_suffix")
    assert (tmp_path / "without_suffix").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="histories must have one of loss"):
        plot_history({"a": []}, tmp_path / "none.png")
