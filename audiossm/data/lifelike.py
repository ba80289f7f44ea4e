"""What separates a synthetic voice in silence from a person in a room: NumPy, one clip at a time, drawn from `rng`.

Clips are float32 (n,). espeak-ng speaks with a few throats, an even pace and no breath; here each clip gets its own.
"""

import numpy as np

FRAME = 512  # samples: 20 to 30 ms
WINDOW = np.hanning(FRAME + 1)[:-1]


def mouth(said: np.ndarray, rng: np.random.Generator, size: float = 1.0) -> np.ndarray:
    """Give a word another mouth and an uneven pace: all its frequencies move, sounds lengthen and shorten.

    size: by how much the frequencies are divided, but for a random eighth. Returns a clip of another length.
    """
    knots = 3 + len(said) // 3000
    pace = np.exp(rng.normal(0, 0.08, knots) + rng.uniform(-0.12, 0.12)) / size
    speed = np.interp(np.linspace(0, knots - 1, len(said)), np.arange(knots), pace)
    when = np.concatenate(([0], np.cumsum(1 / speed)))[:-1]  # the time in the result of each sample
    return np.interp(np.arange(int(when[-1]) + 1), when, said).astype(np.float32)


def throat(said: np.ndarray, rate: int, size: float) -> np.ndarray:
    """Divide the formants by `size` and leave the pitch: the spectra's envelopes are stretched (by cepstra)."""
    spectra = _spectra(said)
    hz = np.fft.rfftfreq(FRAME, 1 / rate)
    log = np.log(np.abs(spectra) + 1e-4 * np.abs(spectra).max() + 1e-12)
    cepstra = np.fft.irfft(log)
    lag = np.minimum(np.arange(FRAME), np.arange(FRAME, 0, -1)) / rate
    smooth = np.fft.rfft(cepstra * (lag < 0.002)).real  # seconds: a pitch of up to 500 Hz shows beyond
    stretched = np.stack([np.interp(hz * size, hz, row) for row in smooth])
    return _overlapped(spectra * np.exp(np.clip(stretched - smooth, -5, 5)), len(said))


def person(said: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Let others say what one person said: men, women and children, by pitch and formants apart."""
    pitch, formants = np.exp(rng.uniform(-0.2, 0.45)), np.exp(rng.uniform(-0.12, 0.22))
    return throat(mouth(said, rng, 1 / pitch), rate, pitch / formants)


def voice(said: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Soften the buzz: vowels lose treble, and the phases of the spectrum are shaken, more so the higher, for breath.

    People's vowels are duller than espeak-ng's, by 4 dB at 3 kHz and 12 at 7 kHz on average; their consonants are not.
    """
    spectra = _spectra(said)
    hz = np.fft.rfftfreq(FRAME, 1 / rate)
    power = np.abs(spectra) ** 2
    voiced = power[:, hz < 2000].sum(1, keepdims=True) / (power.sum(1, keepdims=True) + 1e-12)
    loss_db = rng.uniform(0, 6) * voiced * np.log2(np.maximum(hz, 1000) / 1000)
    shake = np.pi * rng.uniform(0, 1) * np.linspace(0.2, 1, len(hz)) * rng.uniform(-1, 1, spectra.shape)
    return _overlapped(spectra * 10 ** (-loss_db / 20) * np.exp(1j * shake), len(said))


def _spectra(said: np.ndarray) -> np.ndarray:
    """Give the spectra (frames, bins) of overlapping pieces."""
    padded = np.pad(said, FRAME)
    starts = np.arange(0, len(padded) - FRAME, FRAME // 4)
    return np.fft.rfft(padded[starts[:, None] + np.arange(FRAME)] * WINDOW)


def _overlapped(spectra: np.ndarray, samples: int) -> np.ndarray:
    """Put spectra together again to a clip, float32 (samples,)."""
    frames = np.fft.irfft(spectra, FRAME) * WINDOW / 1.5
    out = np.zeros(samples + 2 * FRAME)
    for i, frame in enumerate(frames):
        out[i * FRAME // 4 : i * FRAME // 4 + FRAME] += frame
    return out[FRAME : FRAME + samples].astype(np.float32)


def tone(clip: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Filter a clip as mouths, rooms and microphones do: a smooth random curve, some 4 dB up or down at each octave."""
    spectrum = np.fft.rfft(clip)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(clip), 1 / rate), 50) / 50)
    curve = np.interp(octaves, np.arange(12), rng.normal(0, 4, 12))
    return np.fft.irfft(spectrum * 10 ** (curve / 20), len(clip)).astype(np.float32)


def room(clip: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Put a clip into a simulated room: decaying noise (Polack's model), 60 dB in 0.1 to 0.7 s, 3 to 20 dB below."""
    t = np.arange(round(0.5 * rate)) / rate
    tail = rng.standard_normal(len(t)) * 10 ** (-3 * t / rng.uniform(0.1, 0.7)) * (t > 0.002)
    tail *= 10 ** (-rng.uniform(3, 20) / 20) / np.sqrt(np.sum(tail**2))
    size = len(clip) + len(tail)
    heard = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(tail, size), size)[: len(clip)]
    return (clip + heard).astype(np.float32)


def noise(samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Give noise of RMS 1, (samples,): power 1 to 1 / f^2 randomly filtered, perhaps swelling, with hum or knocks."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    k = np.maximum(np.arange(len(spectrum)), 20)  # flat below the 20th bin: no drift that eats up the level
    heard = tone(np.fft.irfft(spectrum * k ** (-rng.uniform(0, 2) / 2), samples), rate, rng)
    heard /= np.sqrt(np.mean(heard**2))
    t = np.arange(samples) / rate
    if rng.random() < 0.4:
        knots = int(rng.integers(4, 20))
        heard *= np.exp(np.interp(t, np.linspace(0, t[-1] + 1e-9, knots), rng.normal(0, 1, knots)))
    if rng.random() < 0.2:
        hum = rng.choice([50, 60]) * np.arange(1, 6)[:, None]
        heard += rng.uniform(0, 1) * np.sum(rng.normal(0, 1, (5, 1)) * np.sin(2 * np.pi * hum * t), axis=0)
    if rng.random() < 0.3:
        for begin in rng.uniform(0, t[-1], rng.integers(1, 5)):
            since = np.maximum(t - begin, 0)
            ring = np.sin(2 * np.pi * rng.uniform(100, 4000) * since) * np.exp(-since / rng.uniform(0.002, 0.05))
            heard += 10 ** rng.uniform(0, 1.3) * ring * (t >= begin)
    return (heard / np.sqrt(np.mean(heard**2))).astype(np.float32)
