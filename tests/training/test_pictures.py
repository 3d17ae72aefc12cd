from pathlib import Path

import numpy as np
from PIL import Image

from rdm_batch.training.pictures import save_grid, save_losses


def test_grid_places_images_row_by_row(tmp_path: Path) -> None:
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 20, 30)])
    save_grid(images, tmp_path / "grid.png", columns=2)
    with Image.open(tmp_path / "grid.png") as picture:
        grid = np.asarray(picture)
    assert grid.shape == (16, 16, 3)
    assert [int(grid[y, x, 0]) for y, x in [(0, 0), (0, 15), (15, 0), (15, 15)]] == [
        10,
        20,
        30,
        255,
    ]


def test_loss_picture_is_written_for_any_length(tmp_path: Path) -> None:
    for count in (1, 120):
        save_losses([1.0 / (step + 1) for step in range(count)], tmp_path / "losses.png")
        with Image.open(tmp_path / "losses.png") as picture:
            assert picture.size == (700, 400)
