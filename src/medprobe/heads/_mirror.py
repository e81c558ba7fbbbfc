"""Along which axes a labelled image may be flipped, and which classes then swap.

Flips are named by the axis of the body that they reverse (`AXES`), which the affine of a mask tells; images that say nothing of
directions have `vertical` and `horizontal`. A body is like its mirror image across left and right alone, if at all: so `auto`
is left-right, or horizontal. There, classes of the left become those of the right. Pairs are found by name (`kidney_left` and
`kidney_right`, `L lung` and `R lung`) or stated. Where a class has a side and no counterpart, or one that is no mirror image of it
(chambers of the heart, lobes of the liver), or where names only look like a pair (`lk` and `rk`), nothing is flipped. Nor is it
along an axis that a class is named by: an anterior half turned back to front is not a posterior one. Nor, unless axes are stated, where
several classes have names that say nothing (`1`, `label 2`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medprobe.errors import RequestError

AXES = ("left-right", "anterior-posterior", "superior-inferior")
UNKNOWN = ("depth", "vertical", "horizontal")
NAMES = (*AXES, "vertical", "horizontal")
AUTO, NONE = "auto", "none"



def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


LEFT = _words_of(
    "left lt lft l lh os sinister sinistra sinistrum sinistro sin sx sn links linke linker linkes "
    "gauche izquierdo izquierda esquerdo esquerda venstre vänster vanster lewy lewa lewe levy leva"
)
RIGHT = _words_of(
    "right rt rgt r rh od dexter dextra dextrum destro destra dex dx dext rechts rechte rechter "
    "rechtes droit droite derecho derecha direito direita høyre hoyre højre hojre höger hoger prawy "
    "prawa prawe pravy prava"
)
WITHIN = ((-1, "left"), (1, "right"), (-1, "左"), (1, "右"), (-1, "лев"), (1, "прав"))
"""What a word of a side may begin or end with."""
PLAIN = frozenset({"cleft", "bright", "upright", "copyright", "leftover", "outright"})
"""Words that hold a side by chance."""
DIRECTIONS = {
    "anterior-posterior": _words_of(
        "anterior posterior ant post antero postero ventral dorsal front frontal back rear "
        "occipital anteroseptal inferoseptal"
    ),
    "superior-inferior": _words_of(
        "superior inferior sup inf upper lower cranial caudal rostral top bottom apex apical base "
        "basal proximal distal"
    ),
}
NOT_MIRRORED = _words_of(
    "heart cardiac ventricle ventricular atrium atrial atria auricle myocardium myocardial coronary "
    "aortic cusp liver hepatic colon colic flexure gastric bundle"
)
"""Words of organs whose left and right are not each other's mirror image, unless they are of the brain (`LATERAL`)."""
LATERAL = frozenset({"lateral", "lat", "brain", "cerebral"})
GENERIC = _words_of("class label organ structure region roi object segment part mask value id target")
"""Words that say nothing of what a class is."""
ORDERED = _words_of("grade gleason stage type score phase level degree vertebra vertebrae pirads birads")
"""Words after which a number is no side."""
STATE = "name pairs that swap with head.pairs (a=b,c=d), or none"


class Asymmetric(Exception):
    """Why a flip would give labels that are wrong, or may be."""


@dataclass(frozen=True)
class Flip:
    """`axis` of arrays (..., [depth,] height, width), counted from the end; `classes[k]`: what class k becomes."""

    axis: int
    classes: tuple[int, ...]

    @property
    def swaps(self) -> bool:
        return self.classes != tuple(range(len(self.classes)))


def check(flips: object, pairs: object, head: str) -> None:
    """RequestError for settings that name no axes or no pairs."""
    expected = f"auto, none, or axes of {', '.join(NAMES)} joined by commas"
    if not isinstance(flips, str) or not set(_named(flips)) <= {*NAMES, AUTO, NONE}:
        raise RequestError(f"{head}: head.flips must be {expected}, found {flips!r}; correct it")
    if len(_named(flips)) > 1 and {AUTO, NONE} & set(_named(flips)):
        raise RequestError(f"{head}: head.flips must be {expected}, found {flips!r}; correct it")
    if not isinstance(pairs, str) or not (pairs in (AUTO, NONE) or _pairs(pairs)):
        raise RequestError(
            f"{head}: head.pairs must be auto, none, or classes that swap under left-right such as "
            f"a=b,c=d, found {pairs!r}; correct it"
        )


def check_classes(pairs: str, classes: Sequence[str], head: str) -> None:
    """RequestError where a stated pair names a class that there is not, or one twice."""
    if pairs in (AUTO, NONE):
        return
    stated = [name for pair in _pairs(pairs) for name in pair]
    wrong = [name for name in stated if name not in classes or stated.count(name) > 1]
    if wrong:
        raise RequestError(
            f"{head}: expected head.pairs of the classes {', '.join(classes)}, each once, "
            f"found {wrong[0]!r}; correct it"
        )


def axes_of(affine: np.ndarray | None, dims: int) -> tuple[str, ...]:
    """The names of the axes of an array ([depth,] height, width); `affine` from (x, y, z) indices to right, anterior, superior."""
    if dims == 2 or affine is None:
        return UNKNOWN[-dims:]
    import nibabel

    return tuple(AXES[int(axis)] for axis in nibabel.orientations.io_orientation(affine)[::-1, 0])


def flips_of(
    flips: str, pairs: str, classes: Sequence[str], axes: tuple[str, ...]
) -> tuple[tuple[Flip, ...], tuple[str, ...]]:
    """The flips that may be drawn of an image with these axes, and a sentence for each that is left out."""
    known = axes[0] in AXES
    names = _named(flips)
    if names == (AUTO,):
        nameless = [name for name in classes if not _says_something(name)]
        if pairs == AUTO and len(nameless) > 1:
            one, other = nameless[:2]
            return (), (f"flips are left out: {one!r} and {other!r} may be left and right; {STATE}",)
        names = ("left-right",) if known else ("horizontal",)
    drawn: dict[int, Flip] = {}
    left_out = []
    for name in names:
        if name == NONE:
            continue
        try:
            axis = _axis(name, axes, known)
            drawn[axis] = Flip(axis, _classes(name, axis, axes, classes, pairs))
        except Asymmetric as reason:
            left_out.append(f"flips {name} are left out: {reason}")
    return tuple(drawn[axis] for axis in sorted(drawn)), tuple(left_out)


def counterparts(classes: Sequence[str]) -> tuple[int, ...]:
    """What each class becomes in the mirror, by their names. Asymmetric where that is not known."""
    _refuse_abbreviations(classes)
    _refuse_numbers(classes)
    places: dict[tuple[int, tuple[str, ...]], int] = {}
    sides = [_side(name) for name in classes]
    for place, key in enumerate(sides):
        if key[0] and places.setdefault(key, place) != place:
            raise Asymmetric(f"{classes[places[key]]!r} and {classes[place]!r} are of one name")
    found = list(range(len(classes)))
    for place, (side, stem) in enumerate(sides):
        if not side:
            continue
        if (-side, stem) not in places:
            raise Asymmetric(
                f"class {classes[place]!r} has no counterpart of the other side; {STATE}"
            )
        other = places[-side, stem]
        if stem == ("lobe",) or (NOT_MIRRORED & set(stem) and not LATERAL & set(stem)):
            raise Asymmetric(f"{classes[place]!r} is no mirror image of {classes[other]!r}")
        found[place] = other
    return tuple(found)


def _named(flips: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in flips.replace("+", ",").split(","))


def _pairs(pairs: str) -> list[tuple[str, str]]:
    """The names on both sides of each `=`; none where one is not such a pair."""
    parts = [tuple(name.strip() for name in pair.split("=")) for pair in pairs.split(",")]
    return [(part[0], part[1]) for part in parts] if all(len(part) == 2 for part in parts) else []


def _axis(name: str, axes: tuple[str, ...], known: bool) -> int:
    """Where an axis is, from the end."""
    if name in ("vertical", "horizontal"):
        return -2 if name == "vertical" else -1
    if name in axes:
        return axes.index(name) - len(axes)
    if name == "left-right" and not known:
        return -1
    raise Asymmetric("the images say nothing of directions; name left-right (columns), horizontal or vertical")


def _classes(
    name: str, axis: int, axes: tuple[str, ...], classes: Sequence[str], pairs: str
) -> tuple[int, ...]:
    """What each class becomes under a flip. Asymmetric where that is not known."""
    meaning = name if name in AXES else axes[axis]
    if meaning in DIRECTIONS:
        barred = [meaning]
    elif meaning == "left-right":
        barred = []
    elif meaning == "horizontal" and len(axes) == 2:
        barred = ["anterior-posterior"]
    else:
        barred = list(DIRECTIONS)
    for direction in barred:
        for one in classes:
            if DIRECTIONS[direction] & set(_words(one)):
                raise Asymmetric(f"class {one!r} is named by its place from {direction}")
    if meaning == "left-right" or (meaning == "horizontal" and len(axes) == 2):
        return _swapped(classes, pairs)
    if meaning in ("horizontal", "vertical", "depth") and len(axes) == 3 and pairs != NONE:
        sided = [one for one in classes if _side(one)[0]]
        if sided:
            raise Asymmetric(
                f"class {sided[0]!r} has a side, and the images say nothing of directions; name "
                "left-right if that is what columns are"
            )
        _refuse_abbreviations(classes)
    return tuple(range(len(classes)))


def _says_something(name: str) -> bool:
    """Whether a name has a word of its own, or a side."""
    words = _words(name)
    own = [word for word in words if len(word) > 1 and not word.isdecimal() and word not in GENERIC]
    return bool(own) or any(_side_of_word(word)[0] for word in words)


def _swapped(classes: Sequence[str], pairs: str) -> tuple[int, ...]:
    if pairs == AUTO:
        return counterparts(classes)
    found = list(range(len(classes)))
    for one, other in _pairs(pairs) if pairs != NONE else ():
        a, b = classes.index(one), classes.index(other)
        found[a], found[b] = b, a
    return tuple(found)


def _words(name: str) -> tuple[str, ...]:
    """In small letters, parted where a capital follows a small letter; `L2` is one word."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return tuple(word for word in re.split(r"[\W_]+", parted.lower()) if word)


def _side(name: str) -> tuple[int, tuple[str, ...]]:
    """-1 left, 1 right, 0 without a side or with both; and the words that are left."""
    side, stem = set[int](), []
    for word in _words(name):
        found, rest = _side_of_word(word)
        side |= {found} - {0}
        stem += [rest] if rest else []
    return (side.pop() if len(side) == 1 else 0), tuple(stem)


def _side_of_word(word: str) -> tuple[int, str]:
    """As `_side`, of one word: `leftkidney` is `left` and `kidney`."""
    if word in LEFT or word in RIGHT:
        return (-1 if word in LEFT else 1), ""
    for side, text in WITHIN:
        if word not in PLAIN and (word.startswith(text) or word.endswith(text)):
            return side, word.removeprefix(text).removesuffix(text)
    return 0, word


def _refuse_abbreviations(classes: Sequence[str]) -> None:
    """Asymmetric where two names differ by an l and an r at the end or start of a word, or one has both sides."""
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    for name in classes:
        words = _words(name)
        if {-1, 1} <= {_side_of_word(word)[0] for word in words}:
            raise Asymmetric(f"class {name!r} has both sides in its name")
        for place, word in enumerate(words):
            for letter, rest in ((word[0], "_" + word[1:]), (word[-1], word[:-1] + "_")):
                if letter not in "lr" or len(word) < 2 or _side_of_word(word)[0]:
                    continue
                key = (*words[:place], rest, *words[place + 1 :])
                other, before = seen.setdefault(key, (name, letter))
                if before != letter:
                    raise Asymmetric(
                        f"{other!r} and {name!r} may be left and right; {STATE}"
                    )


def _refuse_numbers(classes: Sequence[str]) -> None:
    """Asymmetric where two names without a side differ by a number alone: kidney 1 and kidney 2."""
    seen: dict[tuple[str, ...], str] = {}
    for name in classes:
        words = tuple(re.sub(r"\d", "", word) for word in _words(name))
        stem = tuple(word for word in words if len(word) > 1)
        if stem and not _side(name)[0] and not ORDERED & set(stem) and seen.setdefault(stem, name) != name:
            raise Asymmetric(f"{seen[stem]!r} and {name!r} may be left and right; {STATE}")
