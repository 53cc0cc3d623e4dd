"""The terms of a release, from the licences of everybody whose scans are in it.

A synthetic sample is an adaptation of its host's and its donors' scans. What a licence asks of
adaptations (attribution, the same licence, no commercial use, research only) is asked of the
release; where two ask for what cannot both be kept there is no release. This is bookkeeping, not
legal advice.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tumorfab.stage import InputError

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Licence:
    """What a licence asks of an adaptation. `version` is that of the Creative Commons text."""

    attribution: bool = True
    non_commercial: bool = False
    share_alike: bool = False
    research_only: bool = False
    adaptable: bool = True
    version: str = "4.0"

    @property
    def name(self) -> str:
        """Its usual name, which `read` reads."""
        if not self.adaptable:
            return "no derivatives"
        if self.research_only:
            return "research only"
        if not self.attribution:
            return "CC0 1.0"
        parts = [("NC", self.non_commercial), ("SA", self.share_alike)]
        return f"CC {'-'.join(['BY', *(p for p, has in parts if has)])} {self.version}"

    @property
    def url(self) -> str:
        """Where its text is; empty for terms without a public text."""
        if self.research_only or not self.adaptable:
            return ""
        if not self.attribution:
            return "https://creativecommons.org/publicdomain/zero/1.0/"
        kind, version = self.name.removeprefix("CC ").lower().split()
        return f"https://creativecommons.org/licenses/{kind}/{version}/"


_CC = re.compile(r"cc[ -]by((?:-(?:nc|nd|sa))*)(?:[ -](\d\.\d))?")
# Others that are met with, and what they ask of an adaptation.
_OTHERS = {
    "cc0": Licence(attribution=False),
    "cc0 1.0": Licence(attribution=False),
    "cc0-1.0": Licence(attribution=False),
    "public domain": Licence(attribution=False),
    "pddl": Licence(attribution=False),
    "pddl 1.0": Licence(attribution=False),
    "odc-by": Licence(),
    "odc-by 1.0": Licence(),
    "icbm": Licence(),  # MNI152: any use, with its copyright notice
    "research only": Licence(research_only=True),
    "no derivatives": Licence(adaptable=False),
    "no redistribution": Licence(adaptable=False),
}


def read(text: str) -> Licence | None:
    """The licence that a text names (`CC BY-SA 4.0`, `CC-BY-NC-4.0`, `CC0`, ...); None where it
    names none that is known."""
    plain = " ".join(text.lower().split())
    if found := _CC.fullmatch(plain):
        parts = set(found[1].split("-"))
        return Licence(
            non_commercial="nc" in parts,
            share_alike="sa" in parts,
            adaptable="nd" not in parts,
            version=found[2] or "4.0",
        )
    return _OTHERS.get(plain)


def combine(licences: Iterable[tuple[str, str]]) -> Licence:
    """The terms under which something made from all of `licences` (whose scans, which licence) may
    be published. Raises `InputError` that names who stands in the way."""
    pairs = sorted(set(licences))
    known = [(f"{who} ({text})", read(text)) for who, text in pairs]
    _refuse([who for who, found in known if found is None], "unknown", "state it")
    parts = [(who, found) for who, found in known if found is not None]
    fixed = [who for who, found in parts if not found.adaptable]
    _refuse(fixed, "no adaptation may be passed on", "leave them out")
    alike = [(who, found) for who, found in parts if found.share_alike]
    for who, own in alike:  # wants its own terms, no more and no less
        others = [
            other
            for other, found in parts
            if found.research_only
            or found.non_commercial > own.non_commercial
            or (found.share_alike and found.non_commercial != own.non_commercial)
        ]
        why = "share-alike of the first forbids the terms of the others"
        _refuse([who, *others] if others else [], why, "leave one side out")
    if any(found.research_only for _, found in parts):
        return Licence(research_only=True)
    return Licence(
        attribution=any(found.attribution for _, found in parts),
        non_commercial=any(found.non_commercial for _, found in parts),
        share_alike=bool(alike),
        version=max((found.version for _, found in alike), default="4.0"),
    )


def _refuse(who: list[str], why: str, hint: str) -> None:
    if who:
        more = f" and {len(who) - SHOWN} more" if len(who) > SHOWN else ""
        raise InputError(
            f"licences: {', '.join(who[:SHOWN])}{more}: {why}; {hint}, or make an internal release "
            "(release.internal)"
        )
