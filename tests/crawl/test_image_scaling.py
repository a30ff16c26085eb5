"""What scaled decoding keeps of a photograph, and that it is the same in every thread and process."""

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


def kept(body: bytes, size: int, scaling: str) -> float:
    """Return the PSNR of our pixels, before they are coded, against the whole image through a filter, dB.

    Fine scaling is held against its own filter over all of the image, fast scaling against Lanczos'.
    """
    config = ImageConfig(size=size, scaling=scaling)
    with Image.open(io.BytesIO(body)) as image:
        ours = decode_scaled(image, body, config).astype(float)
    by = Image.Resampling.HAMMING if scaling == "fine" else Image.Resampling.LANCZOS
    with Image.open(io.BytesIO(body)) as image:
        whole = image.convert("RGB").resize((ours.shape[1], ours.shape[0]), by)
    error = float(((np.asarray(whole, float) - ours) ** 2).mean())
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


OTHERS = [pytest.param(size, marks=pytest.mark.exhaustive) for size in ((700, 500), (1333, 1000), (2000, 1500))]


@pytest.mark.parametrize("size", [(1024, 768), *OTHERS])
@pytest.mark.parametrize("coding", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
@pytest.mark.parametrize(("scaling", "least"), [("fast", 42), ("fine", 48)])
def test_scaled_decoding_keeps_a_photograph(size, coding, scaling, least):
    out = io.BytesIO()
    photograph(5, size).save(out, "JPEG", quality=88, **coding)
    assert kept(out.getvalue(), 256, scaling) >= least


def test_a_picture_that_is_not_much_larger_is_decoded_whole_where_fine_is_wanted():
    assert kept(as_jpeg(photograph(6, (1000, 760))), 256, "fine") == 99


@pytest.mark.parametrize(
    ("scaling", "size", "median", "least"),
    [
        ("fine", 256, 99, 32),
        pytest.param("fine", 128, 40, 30, marks=pytest.mark.exhaustive),
        ("fast", 256, 35, 24),
        pytest.param("fast", 128, 31, 22, marks=pytest.mark.exhaustive),
    ],
)
def test_scaled_decoding_keeps_real_pictures(shared_data, scaling, size, median, least):
    """Photographs, and scans of old engravings, which are all edges and lose the most."""
    folders = ("openstax-anthropology", "gutenberg-18304-h")
    bodies = [path.read_bytes() for name in folders for path in sorted((shared_data / name).rglob("*.jp*g"))]
    found = [kept(body, size, scaling) for body in bodies]
    assert len(found) > 100
    assert np.median(found) >= median
    assert min(found) >= least


def test_a_damaged_jpeg_is_refused_alike_by_both(tmp_path):
    body = as_jpeg(photograph(7, (900, 700)))
    for cut in (body[: len(body) // 2], body[:-2], body[:600] + b"\xff\xd9"):
        reasons = []
        for config in (CONFIG, FINE):
            with pytest.raises(Failure) as refused:
                decode(cut, config)
            reasons.append(refused.value.reason)
        assert reasons[0] == reasons[1]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_both_give_the_same_size(mode):
    for width, height in ((257, 257), (300, 257), (257, 1001), (999, 400), (2500, 700)):
        body = as_jpeg(photograph(8, (width, height)).convert(mode))
        sizes = {(made.width, made.height) for made in (decode(body, config)[0] for config in (CONFIG, FINE))}
        assert len(sizes) == 1


def made_of(bodies):
    """Return the digest of the JPEG, or the reason, of each body."""
    made = []
    for body in bodies:
        try:
            picture, jpeg = decode(body, CONFIG)
            made.append([hashlib.sha256(jpeg).hexdigest(), picture.phash])
        except Failure as failure:
            made.append([failure.reason, None])
    return made


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_the_same_bytes_give_the_same_jpeg_in_every_thread_and_process():
    bodies = [path.read_bytes() for path in sorted(make.FILES.iterdir())]
    bodies += [as_jpeg(photograph(n, (900 + n, 800))) for n in range(4)]
    here = made_of(bodies)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(made_of, [bodies[::-1]] * 4)) == [here[::-1]] * 4
    code = "from tests.crawl.test_image_scaling import *; import json\n"
    code += "bodies = [path.read_bytes() for path in sorted(make.FILES.iterdir())]\n"
    code += "bodies += [as_jpeg(photograph(n, (900 + n, 800))) for n in range(4)]\nprint(json.dumps(made_of(bodies)))"
    asked = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(asked.stdout) == here
