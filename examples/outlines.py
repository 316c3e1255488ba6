"""Make small scans large and clear: htmapper -a size=64 -p examples/outlines.py SRC DST

Every sample has a grey image `png`, a class `cls` and notes `json`. Zeros are dropped; the others get an image that is
enlarged and turned into black strokes on white, and a note on how much of it is ink.
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
