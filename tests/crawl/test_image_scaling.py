"""Quality of scaled decoding, and identical results in every thread and process."""

import hashlib
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from benchmarks.photographs import as_jpeg, photograph
from tests.data.images import make
from vecap_tasks.config import ImageConfig
from vecap_tasks.crawl.image.decode import decode
from vecap_tasks.crawl.image.resize import decode_scaled
from vecap_tasks.errors import Failure

CONFIG = ImageConfig()


FINE = ImageConfig(scaling="fine")


def psnr(body: bytes, size: int, scaling: str) -> float:
    """Return the PSNR in dB of the scaled pixels compared with the full image resized by a filter.

    The reference filter is the own filter for fine scaling and Lanczos for fast scaling.
    """
    config = ImageConfig(size=size, scaling=scaling)
    with Image.open(io.BytesIO(body)) as image:
        ours = decode_scaled(image, body, config).astype(float)
    by = Image.Resampling.HAMMING if scaling == "fine" else Image.Resampling.LANCZOS
    with Image.open(io.BytesIO(body)) as image:
        full = image.convert("RGB").resize((ours.shape[1], ours.shape[0]), by)
    error = float(((np.asarray(full, float) - ours) ** 2).mean())
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


OTHERS = [pytest.param(size, marks=pytest.mark.exhaustive) for size in ((700, 500), (1333, 1000), (2000, 1500))]


@pytest.mark.parametrize("size", [(1024, 768), *OTHERS])
@pytest.mark.parametrize("coding", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
@pytest.mark.parametrize(("scaling", "minimum"), [("fast", 42), ("fine", 48)])
def test_scaled_decoding_preserves_a_photograph(size, coding, scaling, minimum):
    out = io.BytesIO()
    photograph(5, size).save(out, "JPEG", quality=88, **coding)
    assert psnr(out.getvalue(), 256, scaling) >= minimum


def test_fine_scaling_fully_decodes_slightly_larger_images():
    assert psnr(as_jpeg(photograph(6, (1000, 760))), 256, "fine") == 99


@pytest.mark.parametrize(
    ("scaling", "size", "median", "minimum"),
    [
        ("fine", 256, 99, 32),
        pytest.param("fine", 128, 40, 30, marks=pytest.mark.exhaustive),
        ("fast", 256, 35, 24),
        pytest.param("fast", 128, 31, 22, marks=pytest.mark.exhaustive),
    ],
)
def test_scaled_decoding_preserves_real_images(shared_data, scaling, size, median, minimum):
    """Photographs and scans of engravings, which have many edges and lose the most."""
    folders = ("openstax-anthropology", "gutenberg-18304-h")
    bodies = [path.read_bytes() for name in folders for path in sorted((shared_data / name).rglob("*.jp*g"))]
    found = [psnr(body, size, scaling) for body in bodies]
    assert len(found) > 100
    assert np.median(found) >= median
    assert min(found) >= minimum


def test_both_scalings_reject_corrupt_jpegs_for_the_same_reason(tmp_path):
    body = as_jpeg(photograph(7, (900, 700)))
    for cut in (body[: len(body) // 2], body[:-2], body[:600] + b"\xff\xd9"):
        reasons = []
        for config in (CONFIG, FINE):
            with pytest.raises(Failure) as refused:
                decode(cut, config)
            reasons.append(refused.value.reason)
        assert reasons[0] == reasons[1]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_both_scalings_give_the_same_size(mode):
    for width, height in ((257, 257), (300, 257), (257, 1001), (999, 400), (2500, 700)):
        body = as_jpeg(photograph(8, (width, height)).convert(mode))
        sizes = {(image.width, image.height) for image in (decode(body, config)[0] for config in (CONFIG, FINE))}
        assert len(sizes) == 1


def decode_all(bodies):
    """Return the digest of the JPEG and the hash, or the failure reason, of each body."""
    results = []
    for body in bodies:
        try:
            picture, jpeg = decode(body, CONFIG)
            results.append([hashlib.sha256(jpeg).hexdigest(), picture.phash])
        except Failure as failure:
            results.append([failure.reason, None])
    return results


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_the_same_bytes_give_the_same_jpeg_in_every_thread_and_process():
    bodies = [path.read_bytes() for path in sorted(make.FILES.iterdir())]
    bodies += [as_jpeg(photograph(n, (900 + n, 800))) for n in range(4)]
    expected = decode_all(bodies)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(decode_all, [bodies[::-1]] * 4)) == [expected[::-1]] * 4
    code = "from tests.crawl.test_image_scaling import *; import json\n"
    code += "bodies = [path.read_bytes() for path in sorted(make.FILES.iterdir())]\n"
    code += (
        "bodies += [as_jpeg(photograph(n, (900 + n, 800))) for n in range(4)]\nprint(json.dumps(decode_all(bodies)))"
    )
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(process.stdout) == expected
