"""Near misses: made from the phonemes, close to a word, never one that sounds like it, and all of them speakable."""

import pytest

from audiossm.data.confusable import heard, near_misses, pronounce
from audiossm.data.espeak import Espeak
from audiossm.data.synth import VOICES

pytest.importorskip("espeakng_loader", reason="near misses need espeak-ng: pip install 'audiossm[synth]'")


@pytest.fixture(scope="module")
def espeak():
    with Espeak() as espeak:
        yield espeak


def plain(misses):
    return {miss.strip("[]").replace("'", "") for miss in misses}


def test_one_phoneme_is_replaced_left_out_or_added(espeak):
    misses = plain(near_misses(espeak, ["stop"], VOICES))
    assert {"s|p|0|p", "S|t|0|p", "s|t|V|p", "s|d|0|p"} <= misses  # replaced by its like
    assert {"t|0|p", "s|0|p", "s|t|0"} <= misses  # left out; the last is also the beginning alone
    assert {"0|p", "s|t|0|p|s"} <= misses  # the end alone; added
    assert "m|t|0|p" not in misses and "s|t|p" not in misses  # unlike, and unspeakable


def test_halves_are_put_together(espeak):
    misses = plain(near_misses(espeak, ["left", "stop", "music"], VOICES))
    assert {"s|t|E|f|t", "l|0|p", "l|u:|z|I|k", "m|j|E|f|t", "m|j|u:"} <= misses


def test_each_word_and_kind_has_its_turn(espeak):
    first = near_misses(espeak, ["left", "stop"], VOICES)[:8]
    kinds = plain(first)
    assert kinds & {"l|E", "l|E|s", "r|E|f|t"} and kinds & {"s|t|0", "t|0|p"}


@pytest.mark.parametrize("words", [["go", "no", "so"], ["right", "light"], ["bad", "bed"]])
def test_an_asked_word_is_no_near_miss_of_another(espeak, words):
    asked = {heard(pronounce(espeak, word, voice)) for word in words for voice in VOICES}
    for miss in near_misses(espeak, words, VOICES):
        assert heard(tuple(miss.strip("[]").split("|"))) not in asked


def test_what_sounds_the_same_is_left_out(espeak):
    """`stop` with the a of father is how Americans say it, `yess` is yes."""
    assert "s|t|A:|p" not in plain(near_misses(espeak, ["stop"], VOICES))
    assert "j|E|s|s" not in plain(near_misses(espeak, ["yes"], VOICES))
    assert heard(("r", "'aI", "t")) == heard(pronounce(espeak, "write", "en")) == heard(("r", "aI", "t2", "t"))


def test_they_are_the_same_each_time_and_distinct(espeak):
    words = ["window", "lamp", "turn on"]
    misses = near_misses(espeak, words, VOICES)
    with Espeak() as another:
        assert misses == near_misses(another, words, VOICES)
    assert len(misses) == len(set(misses)) > 50


def test_espeak_says_them_all(espeak):
    """Some clusters crash it, with the variant `rob` before others."""
    for miss in near_misses(espeak, ["right", "left", "button"], VOICES):
        assert len(espeak.say(miss, "en-gb-x-rp+rob")) > 2000


def test_a_very_short_word_has_some(espeak):
    assert near_misses(espeak, ["I"], VOICES)


@pytest.mark.parametrize("word", ["", "...", "_"])
def test_a_word_without_phonemes(espeak, word):
    with pytest.raises(ValueError, match="no sound for") as raised:
        near_misses(espeak, ["yes", word], VOICES)
    assert "\n" not in str(raised.value)
