"""The playground in a headless Chromium, on the fake model."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import serving
from tests.serving import chromium

FOLDER = Path(serving.__file__).parent / "playground"

needs_browser = pytest.mark.skipif(
    chromium.BINARY is None, reason="no chromium, chromium-browser, google-chrome or chrome is on PATH")


@pytest.fixture(scope="module")
def site(server):
    """Where the page is served from, under Content-Security-Policy "default-src 'self'"."""
    return server.rest_address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = chromium.Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, site):
    """The page, loaded anew; it must not have complained at the end."""
    browser.complaints.clear()
    browser.resize(1200, 900)
    browser.open(f"{site}/")
    browser.wait("document.querySelectorAll('#signature option').length > 0")
    yield browser
    assert not browser.complaints


def fill(page, **values):
    for name, value in values.items():
        page.evaluate(
            f"(() => {{ const e = document.getElementById({json.dumps(name)}); e.value = {json.dumps(value)};"
            " e.dispatchEvent(new Event('input', {bubbles: true}));"
            " e.dispatchEvent(new Event('change', {bubbles: true})); })()")


def send(page):
    page.evaluate("document.getElementById('send').click()")
    page.wait("document.getElementById('send').textContent === 'Send'")
    page.wait("!document.getElementById('status').textContent.startsWith('Waiting')")


def texts_of(page, selector):
    return page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")


@needs_browser
def test_texts_are_answered_with_scores(page):
    assert page.evaluate("document.getElementById('model-line').textContent") == "Model tfseq2seq, version 1"
    fill(page, texts="one\n\nthree <b>&amp;")
    send(page)
    # The fake model's answers end in the options as they came: min_length:max_length:phrases.
    assert texts_of(page, "article h3") == ["one", "three <b>&amp;"]
    assert texts_of(page, ".answer") == ["un|-1:-1:", "un!|-1:-1:", "THREE <B>&AMP;|-1:-1:", "THREE <B>&AMP;!|-1:-1:"]
    assert texts_of(page, ".numbers")[:2] == [
        "score -1.0000 · log-probability -1.0000 nats · 2 tokens",
        "score -2.0000 · log-probability -2.0000 nats · 2 tokens"]
    assert texts_of(page, "article .hint")[-1].startswith("Longer than the model's limit")  # of 9 letters
    assert re.fullmatch(r"2 texts answered in \d+ ms.", page.evaluate("document.getElementById('status').textContent"))


@needs_browser
def test_options_arrive_and_only_those_of_the_signature_are_shown(page):
    def shown():
        return page.evaluate(
            "[...document.querySelectorAll('[data-option]')].filter((e) => e.checkVisibility())"
            ".map((e) => e.dataset.option)")

    assert shown() == ["prefix", "phrases", "length_penalty", "min_length", "max_length"]
    fill(page, texts="one", prefix="a ", phrases="b\nc d", length_penalty="0.5", min_length="2", max_length="6")
    send(page)
    assert texts_of(page, ".answer")[0] == "a un|2:6:b\nc d"
    assert texts_of(page, ".numbers")[0].startswith("score -1.5000 · log-probability -1.0000")
    fill(page, signature="sample", seed="9007199254740993", temperature="0.5", top_k="3", top_p="0.25", min_p="0")
    assert shown() == [
        "prefix", "length_penalty", "min_length", "max_length", "temperature", "top_k", "top_p", "min_p", "seed"]
    send(page)  # the seed is one that no double holds
    assert texts_of(page, ".answer")[0] == "a un|2:6:0.50:3:0.25:0.00:9007199254740993"
    fill(page, signature="alternatives")
    assert shown() == ["prefix"]
    send(page)
    assert texts_of(page, ".answer") == ["a un|", "a un!|"]
    fill(page, signature="greedy")
    assert shown() == []
    send(page)
    assert texts_of(page, ".answer") == ["un"] and not texts_of(page, "article .tokens")


@needs_browser
def test_a_token_shows_where_it_looks(page):
    fill(page, texts="one")
    send(page)
    assert texts_of(page, ".source > span") == ["one", "</s>"]
    assert texts_of(page, ".hypotheses > li:first-child button") == ["un", "</s>"]

    def weights():
        return page.evaluate(
            "[...document.querySelectorAll('.source > span')]"
            ".map((e) => getComputedStyle(e).getPropertyValue('--weight'))")

    second = ".hypotheses > li:first-child .tokens li:nth-child(2) button"
    page.hover(second)
    page.wait("document.querySelector('.readout').textContent !== ''")
    # The second row of the fake model's attention; its third and fourth columns lie after the source's end.
    assert weights() == ["0.25", "0.25"]
    assert page.evaluate("document.querySelector('.readout').textContent") == (
        "“</s>”, 0.000 nats (probability 1.000), looks at “one” 0.25, “</s>” 0.25")
    page.hover("h1")
    page.wait("document.querySelector('.readout').textContent === ''")
    assert weights() == ["", ""]
    # By keyboard: one stop for all tokens, arrows walk.
    page.evaluate("document.querySelector('.hypotheses button').focus()")
    assert weights() == ["1", "0"]
    assert texts_of(page, ".strongest") == ["one"]
    page.press("ArrowRight", 39)
    assert weights() == ["0.25", "0.25"]
    assert page.evaluate("document.activeElement === document.querySelector(" + json.dumps(second) + ")")


@needs_browser
def test_attention_is_a_table_too(page):
    fill(page, texts="one")
    send(page)
    page.evaluate("document.querySelector('article details summary').click()")
    page.wait("document.querySelector('article table')")
    rows = page.evaluate(
        "[...document.querySelectorAll('article tr')].map((r) => [...r.cells].map((c) => c.textContent))")
    assert rows == [["", "one", "</s>"], ["un", "1.00", ""], ["</s>", ".25", ".25"]]


@needs_browser
def test_without_told_tokens_words_characters_or_positions_are_shown_and_said_to_be_so(page):
    labelled = page.evaluate(
        "import('./attention.js').then(({labelled}) => [labelled(undefined, 'a bc', 3), labelled(undefined, 'abc', 4),"
        " labelled(undefined, 'abc', 3), labelled('x y </s>', 'ignored', 3), labelled('x y', '', 3)])")
    assert labelled == [
        {"labels": ["a", "bc", "</s>"], "told": False}, {"labels": ["a", "b", "c", "</s>"], "told": False},
        {"labels": ["1", "2", "3"], "told": False}, {"labels": ["x", "y", "</s>"], "told": True},
        {"labels": ["x", "y", "3"], "told": True}]


@needs_browser
def test_numbers_that_are_not_json_are_read(page):
    values = page.evaluate(
        "import('./api.js').then(({parseJson}) => parseJson('[NaN, -Infinity, 1, \"NaN \\\\\\\\\\\\\" -Infinity\"]')"
        ".map(String))")
    assert values == ["null", "-Infinity", "1", 'NaN \\" -Infinity']


@needs_browser
def test_the_calls_it_shows_give_the_same_answer(page, server, site):
    fill(page, texts="it's one", max_length="6", phrases="it's", grpc=server.address)
    send(page)
    expected = texts_of(page, ".answer")
    curl, grpcurl, python = (page.evaluate(f"document.getElementById('{name}').textContent")
                             for name in ("curl", "grpcurl", "python"))
    command = shlex.split(curl)
    assert command[:2] == ["curl", f"{site}/v1/models/tfseq2seq:predict"]
    told = json.loads(subprocess.run([*command, "-s"], check=True, capture_output=True).stdout)
    assert told["outputs"]["text"] == [expected]

    printed = []
    exec(compile(python, "call", "exec"), {"print": lambda score, text: printed.append(text)})
    assert printed == expected

    words = shlex.split(grpcurl)
    assert words[:3] == ["grpcurl", "-plaintext", "-d"]
    assert words[4:] == [server.address, "tensorflow.serving.PredictionService/Predict"]
    assert answered_over_grpc(server.address, words[3]) == expected


def answered_over_grpc(address, body):
    """What grpcurl would get: it reads the body as protobuf's JSON."""
    import grpc
    from google.protobuf import json_format
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = json_format.Parse(body, predict_pb2.PredictRequest())
    with grpc.insecure_channel(address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
    assert set(response.outputs) == {"text", "score"}
    return [each.decode() for each in response.outputs["text"].string_val]


@needs_browser
def test_errors_are_told_in_words(browser, site):
    told = [
        "The server has no such model; see Connection. The server says (404): "
        "Servable not found for request: Latest(other)"]
    browser.open(f"{site}/?model=other")
    browser.wait("!document.getElementById('problem').hidden")
    assert texts_of(browser, "#problem") == told
    fill(browser, model="tfseq2seq")
    browser.wait("document.querySelectorAll('#signature option').length > 0")
    assert browser.evaluate("document.getElementById('problem').hidden")
    fill(browser, texts="one")
    browser.evaluate("document.getElementById('model').value = 'other'")
    send(browser)
    assert texts_of(browser, "#problem") == told
    assert texts_of(browser, "#status") == ["No answer."]


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_is_legible_in_both_colour_schemes(page, dark):
    page.resize(360, 640)
    page.dark(dark)
    fill(page, texts="one two three four five six seven " * 4)
    send(page)
    page.evaluate("document.querySelectorAll('article details, #calls details').forEach((e) => { e.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # WCAG 2.2's contrast of at least 4.5, of all texts there are, with source tokens at full heat.
    page.evaluate("document.querySelectorAll('.heated').forEach((e) => e.style.setProperty('--weight', 1))")
    assert page.evaluate(CONTRASTS) >= 4.5
    page.dark(False)


# The least contrast of a text with what lies behind it.
CONTRASTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const luminance = (color) => { const [r, g, b] = rgb(color).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== "rgba(0, 0, 0, 0)") return c; } return "white"; };
  let least = 21;
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const [one, other] = [luminance(getComputedStyle(e).color), luminance(behind(e))].sort((a, b) => b - a);
    least = Math.min(least, (one + 0.05) / (other + 0.05));
  }
  return least;
})()"""


@needs_browser
def test_every_field_has_a_name_and_nothing_comes_from_elsewhere(page, site):
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, textarea')].filter((e) => !e.labels.length).map((e) => e.id)")
    assert unnamed == []
    loaded = page.evaluate("performance.getEntriesByType('resource').map((e) => e.name)")
    assert loaded and all(name.startswith(f"{site}/") for name in loaded)


def test_the_files_need_nothing_that_the_policy_forbids():
    html = (FOLDER / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|https?://|<script(?![^>]*\ssrc=)", html)
