"""Near misses of words, made from their phonemes: what a detector of the words must not take for them.

Phonemes are espeak-ng's mnemonics (of its English voices); a mark of stress may stand before a vowel.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest

from audiossm.data.espeak import Espeak

Phonemes = tuple[str, ...]

# Phonemes of one manner at different places, and at one place with the voice on and off: each may stand for another of
# its row.
CONSONANTS = (
    *(("p", "t", "k"), ("b", "d", "g"), ("f", "T", "s", "S", "h"), ("v", "D", "z", "Z"), ("tS", "dZ"), ("m", "n", "N")),
    *(("l", "r", "w", "j"), ("p", "b"), ("t", "d"), ("k", "g"), ("f", "v"), ("T", "D"), ("s", "z"), ("S", "Z", "tS")),
)
VOWELS = (
    *(
        ("I", "E", "a"),
        ("a", "V", "0"),
        ("U", "V"),
        ("i:", "I"),
        ("i:", "eI"),
        ("u:", "oU"),
        ("A:", "3:"),
        ("O:", "u:"),
    ),
    *(("eI", "aI", "OI"), ("aU", "oU"), ("aI", "aU"), ("E", "eI"), ("O:", "OI")),
)
# What an accent or a hurried speaker makes one: no near miss may differ from a word by these alone.
ALIKE = {
    **dict.fromkeys(("0", "O", "O2", "O:", "A:", "A"), "A"),
    **dict.fromkeys(("V", "@", "@2", "a#", "3", "3:", "VR", "@r"), "@"),
    **dict.fromkeys(("I", "I2", "I#", "i"), "I"),
    **dict.fromkeys(("U", "u:", "u"), "u"),
    **dict.fromkeys(("t", "t2", "t#"), "t"),
    **dict.fromkeys(("a", "aa"), "a"),
}
ADDED = ("s", "t", "n", "l")  # what may come before a word, or after it
STRESS = "',%="  # marks before a vowel
VOWEL = re.compile(f"[{STRESS}]*[aeiouAEIOUV03@]")


def near_misses(espeak: Espeak, words: Sequence[str], voices: Sequence[str]) -> list[str]:
    """List what sounds like one of `words` and is none, as espeak-ng reads it: "[[s|t|'E|p]]".

    One phoneme is replaced by a similar one, left out or added; a beginning or an end stands alone, or one word's
    beginning before another's end. The kinds and the words take turns, so that a list cut short is fair to all.
    A homophone of a word, in the accent of any of `voices`, is left out. The phonemes are the first voice's.

    Raises ValueError where a word has no phonemes.
    """
    asked = {heard(pronounce(espeak, word, voice)) for word in words for voice in voices}
    spoken = [pronounce(espeak, word, voices[0]) for word in words]
    series = [kind(word) for kind in (replaced, halves, shortened, lengthened) for word in spoken]
    series += [blended(word, [other for other in spoken if other is not word]) for word in spoken]
    found: dict[Phonemes, str] = {}
    for misses in zip_longest(*series):
        for miss in misses:
            if miss and any(map(VOWEL.match, miss)) and heard(miss) not in asked:
                found.setdefault(heard(miss), f"[[{'|'.join(miss)}]]")
    return list(found.values())


def pronounce(espeak: Espeak, word: str, voice: str) -> Phonemes:
    """Give the phonemes of a word as a voice says it, without pauses; ValueError where it has none."""
    phonemes = tuple(p for p in espeak.phonemes(word, voice) if re.search(r"[A-Za-z@0-9]", p))
    if not any(map(VOWEL.match, phonemes)):
        raise ValueError(f"espeak-ng has no sound for {word!r}: choose another word")
    return phonemes


def heard(phonemes: Phonemes) -> Phonemes:
    """Give what is left of phonemes without stress, accent and doubling: homophones have it in common."""
    plain = (p.lstrip(STRESS) for p in phonemes)
    return tuple(p for p, _ in groupby(ALIKE.get(p, p) for p in plain))


def replaced(word: Phonemes) -> Iterator[Phonemes]:
    """Put a similar phoneme in the place of each."""
    for i, phoneme in enumerate(word):
        plain = phoneme.lstrip(STRESS)
        stress = phoneme[: len(phoneme) - len(plain)]
        for row in (*CONSONANTS, *VOWELS):
            for other in row if plain in row else ():
                if other != plain:
                    yield (*word[:i], stress + other, *word[i + 1 :])


def shortened(word: Phonemes) -> Iterator[Phonemes]:
    """Leave out each consonant."""
    return (word[:i] + word[i + 1 :] for i, phoneme in enumerate(word) if not VOWEL.match(phoneme))


def lengthened(word: Phonemes) -> Iterator[Phonemes]:
    """Add a phoneme at either end, beside a vowel any of ADDED: other clusters are hard to say, and crash espeak-ng."""
    for phoneme in ADDED:
        if phoneme == "s" or VOWEL.match(word[-1]):
            yield (*word, phoneme)
        if phoneme == "s" or VOWEL.match(word[0]):
            yield (phoneme, *word)


def middle(word: Phonemes) -> int:
    """Give the place of the vowel in the middle, where a word is cut in two."""
    vowels = [i for i, phoneme in enumerate(word) if VOWEL.match(phoneme)]
    return vowels[(len(vowels) - 1) // 2]


def halves(word: Phonemes) -> Iterator[Phonemes]:
    """Say the beginning alone, and the end alone; the vowel between them is in both."""
    yield word[: middle(word) + 1]
    yield word[middle(word) :]


def blended(word: Phonemes, others: Sequence[Phonemes]) -> Iterator[Phonemes]:
    """Go from the beginning of a word to the end of each other."""
    return (word[: middle(word)] + other[middle(other) :] for other in others)
