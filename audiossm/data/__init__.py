"""Recordings on disk -> arrays: the clips of a folder, their samples, and spoken words without recordings."""

from audiossm.data.audio import ClipArray, LoadReport, load_clips, load_recordings, read_audio, resample
from audiossm.data.folder import Clip, find_clips, which_split
from audiossm.data.streams import Stream, StreamOptions, Word, make_streams
from audiossm.data.synth import synthesise

__all__ = [
    "Clip",
    "ClipArray",
    "LoadReport",
    "Stream",
    "StreamOptions",
    "Word",
    "find_clips",
    "load_clips",
    "load_recordings",
    "make_streams",
    "read_audio",
    "resample",
    "synthesise",
    "which_split",
]
