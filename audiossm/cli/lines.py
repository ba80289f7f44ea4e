"""What `audiossm listen` writes where there is no screen: a line, or a JSON object, for each thing that happens."""

import json
import sys
from dataclasses import dataclass

from audiossm.streaming import Back, Event, Lost, News


@dataclass(frozen=True)
class Lines:
    """Keywords go to stdout, remarks for people to stderr. With JSON, what happens to the device is an object too."""

    as_json: bool

    def tell(self, news: News) -> None:
        """Write what has happened, at once."""
        if isinstance(news, Event):
            if not self.as_json:
                print(f"{news.time:7.2f} s  {news.label}  {news.score:.2f}", flush=True)
            self._object("keyword", label=news.label, time=round(news.time, 3), score=round(news.score, 4))
        elif isinstance(news, Lost):
            remark(f"device lost: {news.device!r} delivers no more audio; waiting for it, Ctrl-C ends")
            self._object("lost", device=news.device, time=round(news.time, 3))
        elif isinstance(news, Back):
            remark(f"listening to {news.device} at {news.rate} Hz again; Ctrl-C ends")
            self._object("back", device=news.device, rate=news.rate, time=round(news.time, 3))

    def _object(self, event: str, **fields: str | float) -> None:
        if self.as_json:
            print(json.dumps({"event": event, **fields}), flush=True)


def remark(text: str) -> None:
    """Write a line on stderr."""
    print(text, file=sys.stderr, flush=True)
