"""Show a mapped dataset beside its source: show_result.py SERVER SRC DST SHEET

SERVER is the URL of the folder, SRC and DST are specs of 8 shards in it, SHEET is the picture to write.
"""

import io
import json
import sys
import tarfile
from collections.abc import Iterator

import requests
from PIL import Image

SHARDS = 8
SHOWN = 10
TILE = 64


def fetch(url: str) -> bytes:
    answer = requests.get(url, timeout=60)
    answer.raise_for_status()
    return answer.content


def read_samples(shard_url: str) -> Iterator[dict[str, bytes]]:
    """Yield the samples of a shard, read by Python's own tarfile."""
    sample: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(fetch(shard_url))) as shard:
        for member in shard:
            key, _, field = member.name.partition(".")
            if sample and sample["key"] != key.encode():
                yield sample
                sample = {}
            file = shard.extractfile(member)
            assert file is not None
            sample |= {"key": key.encode(), field: file.read()}
    if sample:
        yield sample


def draw(png: bytes, columns: int, rows: int) -> list[str]:
    """Return an image as lines of characters, the darkest as blanks."""
    image = Image.open(io.BytesIO(png)).convert("L").resize((columns, rows))
    ramp = " .:-=+*#%@"
    return ["".join(ramp[image.getpixel((x, y)) * 9 // 255] for x in range(columns)) for y in range(rows)]


def show_listing(server: str) -> None:
    entries = json.loads(fetch(server))
    for entry in sorted(entries, key=lambda entry: entry["name"]):
        print(f"  {entry['size']:>9,}  {entry['name']}")


def show_manifest(url: str) -> None:
    manifest = json.loads(fetch(url))
    shards = manifest["shardlist"]
    samples, size = (sum(shard[name] for shard in shards) for name in ("nsamples", "filesize"))
    print(f"  {len(shards)} shards, {samples:,} samples, {size:,} bytes, fields {manifest['fields']}")
    print(f"  the first shard: {shards[0]}")


def write_sheet(pairs: list[tuple[bytes, bytes]], path: str) -> None:
    """Write the images of ``pairs`` as one picture: sources in the upper row, results in the lower one."""
    sheet = Image.new("L", (TILE * len(pairs), TILE * 2), 128)
    for column, pair in enumerate(pairs):
        for row, png in enumerate(pair):
            image = Image.open(io.BytesIO(png)).resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(image, (column * TILE, row * TILE))
    sheet.save(path)


def main(server: str, source: str, destination: str, sheet: str) -> None:
    print("The server's folder:")
    show_listing(server)
    print(f"\nThe manifest {destination}.json:")
    show_manifest(f"{server}{destination}.json")
    before, after = (server + spec.replace(f"@{SHARDS}", "0") for spec in (source, destination))
    images = {sample["key"]: sample["png"] for sample in read_samples(before)}
    mapped = list(read_samples(after))[:SHOWN]
    first = mapped[0]
    print(
        f"\nSample {first['key'].decode()}, class {first['cls'].decode()}, {first['json'].decode()}, before and after:"
    )
    for left, right in zip(draw(images[first["key"]], 32, 16), draw(first["png"], 32, 16), strict=True):
        print(f"  {left}   {right}")
    write_sheet([(images[sample["key"]], sample["png"]) for sample in mapped], sheet)


main(*sys.argv[1:])
