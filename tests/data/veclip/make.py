"""Makes `tensorflow-2.21.0.npz`: what TensorFlow's own resizing and a centre crop make of noise, called as VeCLIP's
released models are fed. Run it in an environment that has tensorflow-cpu 2.21.0 and NumPy; tests only read the file.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

SIDE = 32
made = {}
for width, height in ((333, 127), (31, 97), (20, 31)):
    picture = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    box = (100_000, SIDE) if height > width else (SIDE, 100_000)
    resized = tf.image.resize(picture, box, method="bilinear", preserve_aspect_ratio=True, antialias=False).numpy()
    top, left = (resized.shape[0] - SIDE) // 2, (resized.shape[1] - SIDE) // 2
    made[f"{width}x{height}"] = resized[top : top + SIDE, left : left + SIDE]
np.savez_compressed(Path(__file__).parent / f"tensorflow-{tf.__version__}.npz", **made)
