"""The edge runtime: run a model file on live audio with NumPy and ONNX Runtime. It never imports torch.

    model = audiossm.streaming.load("keywords")     # a path, or a released model's name
    stream = model.stream(rate=44100)               # any rate; constant memory from here on
    with Microphone() as microphone:
        for chunk in microphone.blocks():
            for event in stream.push(chunk):
                print(event.time, event.label)

A model is shared and read-only; everything that changes belongs to a stream.
"""

from audiossm.streaming.audiofile import AudioFile
from audiossm.streaming.bench import measure
from audiossm.streaming.constants import with_constants
from audiossm.streaming.detector import Detector
from audiossm.streaming.devices import Device, find_device, input_devices, output_devices
from audiossm.streaming.enhancement import EnhancementStream, Enhancer, load_enhancer
from audiossm.streaming.files import released_models, task_of
from audiossm.streaming.generation import Generator, Sampler, load_generator
from audiossm.streaming.level import Level
from audiossm.streaming.listener import Back, Listener, Lost, News
from audiossm.streaming.load import load
from audiossm.streaming.metadata import Filterbank, Metadata
from audiossm.streaming.microphone import DeviceLost, Microphone
from audiossm.streaming.model import Model, load_keywords
from audiossm.streaming.stream import Event, KeywordStream
from audiossm.streaming.taps import FrameClock, rate_constants, taps, windows

__all__ = [
    "AudioFile",
    "Back",
    "Detector",
    "Device",
    "DeviceLost",
    "EnhancementStream",
    "Enhancer",
    "Event",
    "Filterbank",
    "FrameClock",
    "Generator",
    "KeywordStream",
    "Level",
    "Listener",
    "Lost",
    "Metadata",
    "Microphone",
    "Model",
    "News",
    "Sampler",
    "find_device",
    "input_devices",
    "load",
    "load_enhancer",
    "load_generator",
    "load_keywords",
    "measure",
    "output_devices",
    "rate_constants",
    "released_models",
    "taps",
    "task_of",
    "windows",
    "with_constants",
]
