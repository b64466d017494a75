"""Make natural_atoms.npy: 288 atoms of 12 x 12 pixels, learned by scikit-learn from the photographs that it ships.

    python tests/data/natural_atoms.py

Patches of whitened photographs (Olshausen and Field, Vision Res. 37, 3311, 1997). It takes a minute or two.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.decomposition import MiniBatchDictionaryLearning

SIDE, ATOMS = 12, 288


def patches() -> np.ndarray:
    rng, found = np.random.default_rng(0), []
    for image in load_sample_images().images:
        grey = image.mean(-1) / 255
        frequency = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1])[None])
        whitened = np.fft.fft2(grey - grey.mean()) * frequency * np.exp(-((frequency / 0.4) ** 4))
        flat = np.real(np.fft.ifft2(whitened))
        flat /= flat.std()
        for _ in range(8000):
            row, column = rng.integers(0, flat.shape[0] - SIDE), rng.integers(0, flat.shape[1] - SIDE)
            found.append(flat[row : row + SIDE, column : column + SIDE].ravel())
    x = np.array(found)
    x = x - x.mean(1, keepdims=True)
    x = x[x.std(1) > 0.3]
    return x / x.std()


if __name__ == "__main__":
    learning = MiniBatchDictionaryLearning(
        ATOMS,
        alpha=1.0,
        fit_algorithm="cd",
        transform_algorithm="lasso_cd",
        batch_size=256,
        max_iter=4,
        random_state=0,
        max_no_improvement=None,
        tol=0,
    )
    atoms = learning.fit(patches()).components_
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    np.save(Path(__file__).with_suffix(".npy"), atoms.T.astype(np.float16))
