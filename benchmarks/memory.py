"""How the memory of `run` grows with the number of images.

    python benchmarks/memory.py model/shapes              # 2,000 images of the demo, `run --pipeline 2`
    python benchmarks/memory.py model/shapes --images 500

The images are drawn first. Goal: less than 10 MB between the 200th image and the last. Prints the resident memory of
the process at both; exit 1 where the goal is missed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image

from graphsurgery.demo.shapes import embedded_images

SETTLED, GOAL = 200, 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", type=Path, help="a folder that `apply` wrote")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--pipeline", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder, "images"), Path(folder, "out")
        images.mkdir()
        out.mkdir()
        drawn = [shown.image for shown in embedded_images(20)]
        for number in range(options.images):
            Image.fromarray(drawn[number % len(drawn)]).save(images / f"{number:06}.png", compress_level=1)
        command = [sys.executable, "-m", "graphsurgery", "run", str(options.parts), "--image", str(images)]
        command += ["--out", str(out), "--pipeline", str(options.pipeline)]
        process = psutil.Popen(command, stdout=subprocess.DEVNULL)
        settled, last, done = 0.0, 0.0, 0
        while process.poll() is None and done < options.images:
            done = sum(path.suffix == ".json" for path in out.iterdir())
            try:
                last = process.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                break
            if not settled and done >= SETTLED:
                settled = last
            time.sleep(0.05)
        code = process.wait()
    print(f"{SETTLED} images: {settled:.1f} MB; {options.images}: {last:.1f} MB; grown by {last - settled:.1f} MB")
    return code or int(last - settled >= GOAL)


if __name__ == "__main__":
    sys.exit(main())
