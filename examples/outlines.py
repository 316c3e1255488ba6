"""Enlarge small scans of digits, and make them black on white.

    htmapper -a size=64 -p examples/outlines.py http://host/digits-@8.tgz http://host/outlines-@8.tgz

Every sample has a grey image `png`, a class `cls` and notes `json`. Samples of class 0 are dropped. The notes of the
others get `ink`, the share of black pixels.
"""

import io
import json

from PIL import Image


def process_sample(record, size=64, threshold=110):
    if record["cls"] == b"0":
        return None
    scan = Image.open(io.BytesIO(record["png"]))
    large = scan.resize((int(size), int(size)), Image.Resampling.BICUBIC)
    strokes = large.point([0 if level >= int(threshold) else 255 for level in range(256)])
    ink = strokes.histogram()[0] / (strokes.width * strokes.height)
    notes = json.loads(record["json"]) | {"ink": round(ink, 3)}
    return {"key": record["key"], "png": strokes, "cls": record["cls"], "json": notes}
