"""Wordings that labelled data has other values for: `Jersey`, where all titles say Jerseys.

Such a word is marked whole, and what it stands for is learnt into the adapter's rules.json (taggen/normalize.py): the
tag's value is the listing's word, its normalised form the data's.
"""

import json
from collections import Counter, defaultdict
from typing import Any

from taggen.corpus import Report
from taggen.normalize import MAX_WORDS, Rules, tag_key

_SEEN = 2  # times: one listing's slip of the pen is no rule


def learn(report: Report, rules: Rules) -> dict[str, dict[str, list[str]]]:
    """Wordings by tag and value: those that mostly stand for the value where they are marked, and that `rules` do not
    give the value's form already."""
    meant: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for finding in report.findings:
        if finding.doubt == "inside a longer word":
            meant[finding.tag, finding.wording][finding.value] += 1
    learnt: dict[str, dict[str, list[str]]] = {}
    for (tag, wording), values in sorted(meant.items()):
        value, times = values.most_common(1)[0]
        usual = times >= _SEEN and 2 * times > report.wordings[tag, wording]
        if usual and len(wording) <= MAX_WORDS and rules.normalize(tag, wording) != rules.normalize(tag, value):
            learnt.setdefault(tag, {}).setdefault(value, []).append(wording)
    return learnt


def add(learnt: dict[str, dict[str, list[str]]], additions: bytes | None) -> bytes | None:
    """The content of rules.json with what is learnt on top of what is there; None where there is nothing to say."""
    if not learnt:
        return additions
    content: dict[str, dict[str, Any]] = json.loads(additions) if additions is not None else {}
    names = {tag_key(name): name for name in content}
    for tag, values in learnt.items():
        synonyms = content.setdefault(names.get(tag_key(tag), tag), {}).setdefault("synonyms", {})
        for value, its in values.items():
            synonyms[value] = [*synonyms.get(value, ()), *its]
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"
