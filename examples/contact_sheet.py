"""Draw a contact sheet: 40 images from all over a dataset in one picture. Print their mean and standard deviation.

    python examples/contact_sheet.py http://host/train-@1000.tgz jpg sheet.png

Only these 40 samples are fetched. They are spread evenly over the dataset.
"""

import sys

import numpy as np
from PIL import Image

import shardtools as st

COLUMNS, ROWS, SIZE, GAP = 8, 5, 96, 4


def main(spec: str, field: str, output: str) -> None:
    """Write the sheet to the file ``output``."""
    dataset = st.open(spec)
    numbers = np.linspace(0, len(dataset) - 1, COLUMNS * ROWS).astype(int)
    pictures = np.asarray(dataset.view(field, resize=(SIZE, SIZE))[numbers])
    if pictures.ndim == 3:  # without colours
        pictures = np.repeat(pictures[..., None], 3, axis=3)
    sheet = np.full((ROWS * (SIZE + GAP) + GAP, COLUMNS * (SIZE + GAP) + GAP, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (GAP + place * (SIZE + GAP) for place in divmod(i, COLUMNS))
        sheet[top : top + SIZE, left : left + SIZE] = picture[..., :3]
    Image.fromarray(sheet).save(output)
    print(f"{len(dataset):,} samples with {', '.join(dataset.fields)}; {output} shows {len(pictures)}")
    print(f"their mean is {pictures.mean():.1f}, their standard deviation {pictures.std():.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
