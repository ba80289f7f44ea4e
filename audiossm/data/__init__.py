"""Recordings on disk -> arrays: the clips of a folder, their samples, and spoken words without recordings."""

from audiossm.data.audio import ClipArray, LoadReport, load_clips, load_recordings, read_audio, resample
from audiossm.data.download import download_speech_commands
from audiossm.data.engines import installed as installed_voices
from audiossm.data.folder import Clip, find_clips, which_split
from audiossm.data.highband import add_highband
from audiossm.data.streams import Stream, StreamOptions, Word, make_streams
from audiossm.data.synth import synthesise

__all__ = [
    "Clip",
    "ClipArray",
    "LoadReport",
    "Stream",
    "StreamOptions",
    "Word",
    "add_highband",
    "download_speech_commands",
    "find_clips",
    "installed_voices",
    "load_clips",
    "load_recordings",
    "make_streams",
    "read_audio",
    "resample",
    "synthesise",
    "which_split",
]
