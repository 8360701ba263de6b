"""Plain sentences about what betrays a class, each resting on a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convscope.core.results import Finding, Number
from convscope.core.sentences import collected, told

if TYPE_CHECKING:
    from convscope.dynamics.shortcuts.result import ShortcutsResult, Suspect

MOST = 4  # further alarms that are named
USED, UNUSED = 13, 26  # ranks of planted stripes up to which, and from which on, one small network used them or not


def findings(result: ShortcutsResult) -> list[Finding]:
    """Returns the findings, the most telling first; a sentence that would tell an undefined number is left out."""
    return collected(result, (_none, _first, _tried, _rank, _limit, _others, _colour, _files))


def _none(result: ShortcutsResult) -> list[Finding]:
    if result.alarms or not result.suspects:
        return []
    frequencies = [s for s in result.suspects if s.kind == "frequency"]
    if not frequencies:
        return []
    frequency = max(frequencies, key=lambda s: s.number.value)
    files = ", nor any property of the files," if "files" in result.tables else ""
    text = (
        f"No frequency, pixel or mean colour betrays a class{files} as far as this audit sees: the strongest "
        f"frequency, {_place(frequency)}, has z {told(frequency.number, '.1f')}, and an alarm begins at "
        f"{told(float(result.facts['threshold']), 'g')}."
    )
    return [Finding(text, frequency.number)]


def _first(result: ShortcutsResult) -> list[Finding]:
    return [_alarm(result, suspect) for suspect in result.alarms[:1]]


def _others(result: ShortcutsResult) -> list[Finding]:
    """Returns a sentence for the first alarm of each other kind, and one for all the rest."""
    seen, found, rest = {s.number.definition for s in result.alarms[:1]}, [], []
    for suspect in result.alarms[1:]:
        if suspect.number.definition in seen:
            rest.append(suspect)
        else:
            seen.add(suspect.number.definition)
            found.append(_alarm(result, suspect))
    if rest:
        names = "; ".join(f"{s.what.replace('-', '−')} (z {told(s.number, '.1f')})" for s in rest[:MOST])
        more = f"; and {len(rest) - MOST} more" if len(rest) > MOST else ""
        text = f"Further alarms, which may follow from the same cause: {names}{more}."
        found.append(Finding(text, rest[0].number))
    return found


def _alarm(result: ShortcutsResult, suspect: Suspect) -> Finding:
    who = "classes" if suspect.label is None else f"{result.class_name(suspect.label)} from the others"
    z, threshold = told(suspect.number, ".1f"), told(suspect.threshold, ".3g")
    beside = f"(z {z}; an alarm begins at {threshold})"
    if suspect.kind in {"colour", "file"}:
        text = (
            f"Without looking at what images show, {suspect.what} tell {who} ({suspect.statistic}; z {z}, an alarm "
            f"begins at {threshold})."
        )
    elif suspect.kind == "pixel":
        text = (
            f"The pixel in {_place(suspect)} tells {who}: there classes differ far more than in the pixels around it "
            f"{beside}."
        )
    elif suspect.number.definition == "power":
        text = (
            f"Stripes of {_place(suspect)} are stronger or weaker by class, most so in "
            f"{'one' if suspect.label is None else result.class_name(suspect.label)}: at this frequency classes differ "
            f"far more in strength than at those around it {beside}."
        )
    else:
        text = (
            f"Stripes of {_place(suspect)}, in the same place in image after image, tell {who}: at this frequency "
            f"classes differ far more than at those around it {beside}."
        )
    return Finding(text, suspect.number)


def _place(suspect: Suspect) -> str:
    if suspect.place is None:
        return suspect.what
    first, second = (told(float(k), ".0f") for k in suspect.place)
    if suspect.kind == "pixel":
        return f"row {first}, column {second} (counted from 0)"
    return f"({first}, {second}) cycles per image (down, across)"


def _tried(result: ShortcutsResult) -> list[Finding]:
    found: list[Finding] = []
    for suspect in result.suspects:
        # Beside the first, only what the network uses is worth a sentence; the chart shows all.
        if not suspect.tried or suspect.label is None or (found and not suspect.used):
            continue
        shares = {name: f"{told(100 * number.value, '.1f')} %" for name, number in suspect.tried.items()}
        mark = "stripes" if suspect.kind == "frequency" else "mark"
        elsewhere = "at other frequencies" if suspect.kind == "frequency" else "at other places"
        added = suspect.tried["added"]
        if suspect.used:
            verdict = "the network uses them" if suspect.kind == "frequency" else "the network uses it"
        elif added.chance is None or added.value > added.chance[1]:
            verdict = "whether the network uses this is not decided"
        else:
            verdict = "nothing shows that the network uses this"
        text = (
            f"Given the {mark} of {_place(suspect)} as {result.class_name(suspect.label)} bears "
            f"{'them' if suspect.kind == 'frequency' else 'it'}, {shares['added']} of the images of other classes are "
            f"taken for it ({shares['unchanged']} as they are, {shares['opposite']} with the opposite, "
            f"{shares['control']} with the same {elsewhere}): {verdict}."
        )
        found.append(Finding(text, added))
    return found


def _rank(result: ShortcutsResult) -> list[Finding]:
    first = next((s for s in result.alarms if s.kind == "frequency" and s.rank is not None), None)
    if first is None or first.rank is None:
        return []
    total = float(result.facts["frequencies"])
    if first.rank <= USED:
        likely = "which makes it likely that a network uses them"
    elif first.rank >= UNUSED:
        likely = "which makes it unlikely that a network uses them"
    else:
        likely = "which leaves open whether a network uses them"
    text = (
        f"How strongly the stripes of {_place(first)} tie classes to pixels ranks {first.rank} of "
        f"{told(total, '.0f')} frequencies, {likely}: in trials with one small network, planted stripes were used at "
        f"rank {USED} or stronger and not at {UNUSED} or weaker. That is indicative only."
    )
    band = (max(1.0, 0.025 * total), max(1.0, 0.975 * total))
    return [Finding(text, Number(float(first.rank), None, band, "rank", "any frequency"))]


def _limit(result: ShortcutsResult) -> list[Finding]:
    if "limit" not in result.numbers:
        return []
    limit = result.numbers["limit"]
    size = f"{told(255 * limit.value, '.1f')}/255" if result.facts["bytes"] else f"{told(limit, '.2g')} in their units"
    text = (
        f"The audit does not see everything: in images as many as these, stripes in one class are noticed from an "
        f"amplitude of about {size}. Unseen by every part of it: {'; '.join(result.unseen)}."
    )
    return [Finding(text, limit)]


def _colour(result: ShortcutsResult) -> list[Finding]:
    suspect = next((s for s in result.suspects if s.kind == "colour" and not s.alarm), None)
    if suspect is None:
        return []
    text = _from_table(result, suspect)
    if not any(s.kind in {"frequency", "pixel"} for s in result.suspects):
        text = f"No frequency and no pixel could be tested, for the images vary too little or are too small. {text}"
    return [Finding(text, suspect.number)]


def _files(result: ShortcutsResult) -> list[Finding]:
    suspect = next((s for s in result.suspects if s.kind == "file" and not s.alarm), None)
    return [] if suspect is None else [Finding(_from_table(result, suspect), suspect.number)]


def _from_table(result: ShortcutsResult, suspect: Suspect) -> str:
    source = "the colours of an image" if suspect.kind == "colour" else "the file of an image"
    share = f"{told(100 * suspect.number.value, '.1f')} %"
    text = f"From {source} alone, without its content, a classifier tells the class of {share} of the images"
    table = result.tables["colour" if suspect.kind == "colour" else "files"]
    if suspect.number.chance is not None:
        low, high = suspect.number.chance
        text += f"; always naming the largest class is right for {told(50 * (low + high), '.1f')} %"
    best = max((name for name in table if name != "all"), key=lambda name: table[name].value, default=None)
    if best is not None and suspect.kind == "file":
        text += f", {best} alone for {told(100 * table[best].value, '.1f')} %"
    if suspect.kind == "colour":
        text += ". No class stands out by it; colours often belong to the objects"
    return f"{text}."
