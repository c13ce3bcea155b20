"""What `evaluate --report` writes: one page of HTML that needs no other file, in light and dark, for printing too.

Every text of the data is escaped; nothing in the page runs.
"""

import base64
import html
import re
from collections.abc import Sequence

from sacrebleu.metrics.chrf import CHRF

import tfseq2seq
from tfseq2seq.assessment import REFERENCES, Assessment
from tfseq2seq.breakdown import Breakdown
from tfseq2seq.charts import bar_chart
from tfseq2seq.evaluation import METRICS, arrow, maximizes
from tfseq2seq.plots import attention_png
from tfseq2seq.significance import SIGNIFICANT, Comparison

NUM_WORST, NUM_SPREAD, NUM_PICTURES = 12, 8, 3
LONGEST = 1500  # characters of a text that are shown
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --quiet: #57606a; --page: #ffffff; --card: #f5f7f9; --line: #d0d7de;
  --bar-0: #8c959f; --bar-1: #0a62c4; --good: #116329; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --quiet: #9aa4af; --page: #0f141a; --card: #171d25;
  --line: #39424d; --bar-0: #7d8590; --bar-1: #58a6ff; --good: #56d364; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, .note, figcaption { color: var(--quiet); } p { max-width: 46rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th, td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom-width: 2px; vertical-align: bottom; }
td { font-variant-numeric: tabular-nums; } caption { text-align: left; color: var(--quiet); padding-bottom: .4rem; }
.best { font-weight: 700; color: var(--good); } .note { font-size: .85rem; overflow-wrap: anywhere; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .75rem 1rem;
  margin: 0 0 .75rem; break-inside: avoid; }
article dl { display: grid; grid-template-columns: 7.5rem 1fr; gap: .3rem 1rem; margin: 0; }
article dd { white-space: pre-wrap; unicode-bidi: plaintext; } article h3 { margin: 0 0 .5rem; font-size: .9rem; }
figure { margin: .75rem 0 0; } figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
svg { width: 100%; max-width: 44rem; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--text); }
svg .tick, svg .value { fill: var(--quiet); font-size: 11px; } svg .grid { stroke: var(--line); }
.bar-0 { fill: var(--bar-0); background: var(--bar-0); } .bar-1 { fill: var(--bar-1); background: var(--bar-1); }
.key { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0; margin: 0 0 .5rem; }
.key span { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem; }
a { color: var(--bar-1); } nav ul { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0; }
@media (max-width: 34rem) { article dl { grid-template-columns: 1fr; gap: 0; } article dd { margin-bottom: .5rem; } }
"""


def render_report(assessment: Assessment, breakdowns: Sequence[Breakdown]) -> str:
    """A page of scores with intervals, break-downs, worst answers and answers evenly spread, some with attention.

    Args:
        assessment: of `assess_run`.
        breakdowns: of it.
    """
    task = assessment.prepared.task
    title = f"{assessment.name} on {assessment.split}"
    facts = {
        "task": task.name, "lines": f"{len(assessment.sources):,}", "checkpoint": f"step {assessment.generator.step:,}",
        "search": _search(assessment), "baseline": task.baseline_name, "made by": f"tfseq2seq {tfseq2seq.__version__}"}
    sections = {
        "scores": ("Scores", _scores(assessment)),
        "parts": ("Parts of the lines", "".join(_breakdown(f"parts-{n}", each) for n, each in enumerate(breakdowns))),
        "worst": ("Worst answers", _worst(assessment)),
        "spread": ("Answers as they come", _spread(assessment))}
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, (heading, _) in sections.items())
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2>{content}</section>'
        for name, (heading, content) in sections.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        'style-src \'unsafe-inline\'">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body><header><h1>{_text(title)}</h1>"
        f'<dl class="facts">{_terms(facts)}</dl><nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{body}</main></body></html>\n")


def _search(assessment: Assessment) -> str:
    decode = assessment.run.decode
    what = "best of draws" if decode.method == "sample" else "beam"
    return f"{what}, {decode.beam_size} wide, length penalty {decode.length_penalty:g}"


def _scores(assessment: Assessment) -> str:
    found = assessment.comparisons()
    systems = list(assessment.systems)
    references = assessment.scores.get(REFERENCES, {})
    names = [name for name in assessment.prepared.task.metrics if name in found[systems[0]]]
    rows, notes = [], []
    for name in names:
        both = [found[system][name] for system in systems]
        better = _better(both)
        cells = "".join(
            f"<td{' class=best' if n == better else ''}>{_value(each)}</td>" for n, each in enumerate(both))
        chance = "" if both[1].p_value is None else f"{both[1].p_value:.3f}"
        right = f"{references[name].value:.2f}" if name in references else ""
        maximize = METRICS[name].maximize if name in METRICS else maximizes(name)
        rows.append(
            f'<tr><th scope="row">{_text(name)} {arrow(maximize)}</th>{cells}<td>{chance}</td>'
            + (f"<td>{right}</td>" if references else "") + "</tr>")
        if both[1].signature:
            notes.append(f"<div>{_text(name)}: {_text(both[1].signature)}</div>")
    head = "".join(f'<th scope="col">{_text(each)}</th>' for each in ("metric", *systems, "chance"))
    head += '<th scope="col">references</th>' if references else ""
    explained = (
        "± is half of a 95 % interval over resampled lines. Chance is how likely so large a difference is where there "
        f"is none (paired bootstrap); below {SIGNIFICANT} the better value is green.")
    return _table("Scores", head, rows, explained) + f'<div class="note">{"".join(notes)}</div>'


def _better(both: Sequence[Comparison]) -> int | None:
    """Which of the two is better beyond chance, if one is."""
    one, two = both
    if two.p_value is None or two.p_value >= SIGNIFICANT or two.maximize is None:
        return None
    return int((two.value > one.value) == two.maximize)


def _value(found: Comparison) -> str:
    return f"{found.value:.2f}" + ("" if found.interval is None else f" ± {found.interval:.2f}")


def _breakdown(name: str, breakdown: Breakdown) -> str:
    if not breakdown.scores:
        return ""
    systems = list(breakdown.scores[0])
    key = "".join(f'<li><span class="bar-{n}"></span>{_text(each)}</li>' for n, each in enumerate(systems))
    charts = [f'<ul class="key">{key}</ul>']
    labels = [part.label for part in breakdown.parts]
    for metric in breakdown.scores[0][systems[0]]:
        series = {system: [scores[system][metric] for scores in breakdown.scores] for system in systems}
        title = f"{metric} {arrow(METRICS[metric].maximize)} {breakdown.title}"
        chart = bar_chart(f"{name}-{metric}", title, labels, series)
        charts.append(f"<figure><figcaption>{_text(title)}</figcaption>{chart}</figure>")
    scored = [f"{metric}, {system}" for system in systems for metric in breakdown.scores[0][system]]
    head = "".join(f'<th scope="col">{_text(each)}</th>' for each in ("part", "lines", *scored))
    rows = [
        f'<tr><th scope="row">{_text(part.label)}</th><td>{len(part.rows):,}</td>'
        + "".join(f"<td>{value:.2f}</td>" for values in scores.values() for value in values.values()) + "</tr>"
        for part, scores in zip(breakdown.parts, breakdown.scores, strict=True)]
    return (
        f"<h3>{_text(breakdown.title.capitalize())}</h3>{''.join(charts)}"
        f"<details><summary>As a table</summary>{_table(breakdown.title, head, rows)}</details>")


def _table(name: str, head: str, rows: Sequence[str], explained: str = "") -> str:
    """A table that scrolls where it is too wide, by keyboard too."""
    caption = f"<caption>{explained}</caption>" if explained else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(name)}"><table>{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>")


def line_scores(assessment: Assessment) -> list[float]:
    """chrF of each answer with its references, from 0 to 100: the measure of lines, whatever the task."""
    scorer = CHRF()
    answers = assessment.systems[assessment.name]
    return [
        scorer.sentence_score(answer, right).score
        for answer, right in zip(answers, assessment.references, strict=True)]


def _worst(assessment: Assessment) -> str:
    scores = line_scores(assessment)
    rows = sorted(range(len(scores)), key=lambda row: scores[row])[:NUM_WORST]
    return "<p>Lines whose answers have the least in common with a reference, by chrF.</p>" + _examples(
        assessment, rows, [f"chrF {scores[row]:.1f}" for row in rows])


def _spread(assessment: Assessment) -> str:
    number = len(assessment.sources)
    count = min(NUM_SPREAD, number)
    rows = [place * number // count for place in range(count)]
    return "<p>Lines evenly spread over the split; nobody chose them.</p>" + _examples(assessment, rows, [""] * count)


def _examples(assessment: Assessment, rows: Sequence[int], remarks: Sequence[str]) -> str:
    systems = list(assessment.systems.items())
    (baseline, cheap), (_, answers) = systems
    cards = []
    for number, (row, remark) in enumerate(zip(rows, remarks, strict=True)):
        right = assessment.references[row]
        terms = {"source": assessment.sources[row], "answer": answers[row]}
        terms |= {"reference" if n == 0 else f"reference {n + 1}": text for n, text in enumerate(right)}
        terms[baseline] = cheap[row]
        picture = _attention(assessment, assessment.sources[row]) if number < NUM_PICTURES else ""
        heading = f"line {row + 1:,}" + (f", {remark}" if remark else "")
        cards.append(f"<article><h3>{_text(heading)}</h3><dl>{_terms(terms)}</dl>{picture}</article>")
    return "".join(cards)


def _attention(assessment: Assessment, source: str) -> str:
    """A heat map; nothing of a model that has no attention."""
    source_tokens, target_tokens, weights = assessment.generator.attention(source)
    if not weights.any():
        return ""
    picture = base64.b64encode(attention_png(source_tokens, target_tokens, weights)).decode("ascii")
    most = ", ".join(
        f"{token} on {source_tokens[place]}" for token, place in zip(target_tokens, weights.argmax(1), strict=True))
    told = _text(f"Attention of each token of the answer: mostly {most}")
    return (
        f'<figure><img alt="{told}" src="data:image/png;base64,{picture}">'
        "<figcaption>Attention: source tokens across, tokens of the answer down, dark is much.</figcaption></figure>")


def _terms(terms: dict[str, str]) -> str:
    return "".join(
        f'<dt>{_text(name)}</dt><dd dir="auto">{_text(text) or "&nbsp;"}</dd>' for name, text in terms.items())


def _text(text: str) -> str:
    """As HTML; control characters as their pictures, and what is too long cut."""
    shown = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    visible = _CONTROL.sub(lambda found: chr(0x2421) if found[0] == "\x7f" else chr(0x2400 + ord(found[0])), shown)
    return html.escape(visible.encode("utf-8", "replace").decode("utf-8"))
