"""Proper names of the objects in the miniature web: facts that a page knows and an image cannot show.

A name is an invented proper part and a head noun that implies its kind: "Marlow terrier" is a dog, "Castlow GT" a car.
Every kind has `NAMES_PER_KIND` names, the same in every run. All are built from syllables; any resemblance to a real
breed, manufacturer or place is unintended.
"""

import hashlib
import random
from dataclasses import dataclass

from vecap_tasks.demo.scene import KINDS, PLURALS

NAMES_PER_KIND = 10

# Kind -> head nouns. A head belongs to one kind only and contains no color, so that it implies the kind and nothing
# else that is visible.
HEADS: dict[str, tuple[str, ...]] = {
    "cat": ("tabby", "shorthair", "longhair", "rex"),
    "dog": ("terrier", "spaniel", "sheepdog", "pointer"),
    "rabbit": ("lop", "harlequin", "buck", "dwarf rabbit"),
    "elephant": ("tusker", "forest elephant", "bull elephant", "cow elephant"),
    "bird": ("finch", "warbler", "thrush", "bunting"),
    "owl": ("barn owl", "eagle owl", "owlet", "wood owl"),
    "fish": ("carp", "perch", "gurnard", "wrasse"),
    "turtle": ("terrapin", "sea turtle", "box turtle", "slider"),
    "snail": ("whelk", "garden snail", "pond snail", "periwinkle"),
    "butterfly": ("fritillary", "hairstreak", "skipper", "swallowtail"),
    "car": ("GT", "coupe", "roadster", "saloon"),
    "bus": ("coach", "minibus", "double-decker", "omnibus"),
    "truck": ("pickup", "lorry", "hauler", "tipper"),
    "train": ("express", "railcar", "locomotive", "shuttle train"),
    "bicycle": ("tandem", "racer", "tourer", "roadbike"),
    "boat": ("dinghy", "ketch", "trawler", "skiff"),
    "plane": ("glider", "biplane", "jet", "monoplane"),
    "rocket": ("booster", "launcher", "lunar rocket", "sounding rocket"),
    "tree": ("oak", "maple", "larch", "alder"),
    "cactus": ("saguaro", "cholla", "barrel cactus", "pincushion"),
    "flower": ("tulip", "dahlia", "peony", "aster"),
    "mushroom": ("bolete", "chanterelle", "puffball", "morel"),
    "apple": ("pippin", "russet", "codling", "cider apple"),
    "carrot": ("heirloom carrot", "finger carrot", "market carrot", "taproot"),
    "house": ("cottage", "villa", "farmhouse", "manor"),
    "castle": ("keep", "fortress", "citadel", "stronghold"),
    "tent": ("tipi", "yurt", "bivouac", "pavilion"),
    "chair": ("armchair", "rocker", "recliner", "highchair"),
    "lamp": ("lantern", "sconce", "desk lamp", "oil lamp"),
    "clock": ("chronometer", "mantel clock", "cuckoo clock", "regulator"),
    "cup": ("mug", "beaker", "goblet", "demitasse"),
    "teapot": ("samovar", "kettle", "stoneware teapot", "infuser"),
    "bottle": ("flask", "decanter", "carafe", "flagon"),
    "guitar": ("archtop", "dreadnought", "parlour guitar", "twelve-string"),
    "drum": ("snare", "bongo", "tabor", "timpani"),
    "umbrella": ("parasol", "brolly", "golf umbrella", "sunshade"),
    "hat": ("fedora", "bowler", "trilby", "bonnet"),
    "shoe": ("loafer", "brogue", "sneaker", "oxford"),
    "kite": ("delta kite", "box kite", "stunt kite", "parafoil"),
    "key": ("latchkey", "skeleton key", "padlock key", "passkey"),
}

_STARTS = [
    "Mar",
    "Kes",
    "Tal",
    "Bren",
    "Cast",
    "Hol",
    "Or",
    "Pel",
    "Quin",
    "Rav",
    "Sel",
    "Thorn",
    "Ul",
    "Ver",
    "Wes",
    "Yar",
    "Zan",
    "Al",
    "Bal",
    "Cor",
    "Dun",
    "El",
    "Fen",
    "Gar",
    "Har",
    "Is",
    "Jor",
    "Kil",
    "Lan",
    "Mor",
    "Nor",
    "Os",
    "Pren",
    "Ros",
    "Stan",
    "Trev",
]
_ENDS = [
    "low",
    "trel",
    "ford",
    "wick",
    "by",
    "ton",
    "more",
    "ellen",
    "arrow",
    "dale",
    "mere",
    "hurst",
    "ley",
    "combe",
    "stead",
    "ric",
    "vane",
    "gate",
    "shaw",
    "worth",
    "ness",
    "field",
    "burn",
    "a",
]
_PREFIXES = ("Port", "Mount", "Saint", "Old", "Upper")
_PREFIX_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class ProperName:
    """A full name such as "Marlow terrier", and the kind of object it denotes."""

    kind: str
    text: str


def coin(rng: random.Random) -> str:
    """Return an invented proper part: "Marlow", "Port Thornellen"."""
    word = rng.choice(_STARTS) + rng.choice(_ENDS)
    return f"{rng.choice(_PREFIXES)} {word}" if rng.random() < _PREFIX_SHARE else word


def _pool() -> dict[str, tuple[ProperName, ...]]:
    rng = random.Random("proper names of the miniature web")
    taken: set[str] = set()
    pool: dict[str, tuple[ProperName, ...]] = {}
    for kind in KINDS:
        names: list[ProperName] = []
        while len(names) < NAMES_PER_KIND:
            proper = coin(rng)
            if proper.split()[-1] not in taken:
                taken.add(proper.split()[-1])
                heads = HEADS[kind]
                names.append(ProperName(kind, f"{proper} {heads[len(names) % len(heads)]}"))
        pool[kind] = tuple(names)
    return pool


NAMES: dict[str, tuple[ProperName, ...]] = _pool()


def choose_name(kind: str, rng: random.Random) -> ProperName:
    """Return one of the names of `kind`, uniformly at random."""
    return rng.choice(NAMES[kind])


def slug(text: str) -> str:
    """Return a name in the form used in URLs and file names: "marlow-terrier"."""
    return "-".join(text.lower().split())


def insert_name(caption: str, name: ProperName) -> str:
    """Insert a name before the first noun of its kind: "two red dogs" becomes "two red Marlow terrier dogs".

    A head equal to the noun is not repeated: "a blue kite" with "Orric box kite" gives "a blue Orric box kite".
    Returns the caption unchanged if it does not mention the kind.
    """
    words = caption.split()
    nouns = (name.kind, PLURALS[name.kind])
    for i, word in enumerate(words):
        if word in nouns:
            inserted = name.text.split()
            if inserted[-1] == name.kind:
                inserted = inserted[:-1]
            return " ".join([*words[:i], *inserted, *words[i:]])
    return caption


def is_held_out(proper: str) -> bool:
    """Return whether a coined proper part is held out of the fusion model's training, for measurement on unseen names.

    True for one in five, by a stable hash of the last word; never for the names of the pool.
    """
    word = proper.split()[-1]
    if any(word in name.text.split() for names in NAMES.values() for name in names):
        return False
    return hashlib.sha256(word.encode()).digest()[0] % 5 == 0
