import numpy as np
import pytest
import torch
from PIL import Image

from model.bundle import Bundle, load
from model.images import on_white
from model.pictures import Pictures
from tests.model.golden import LARGEST, folder


def pytest_terminal_summary(terminalreporter):
    if LARGEST:
        terminalreporter.section("parity: largest error per file")
        for file, (ratio, error, name) in sorted(LARGEST.items()):
            terminalreporter.write_line(f"{file:12} {error:.2e} = {ratio:6.1%} of the tolerance ({name})")


@pytest.fixture(scope="session")
def official() -> Bundle:
    if not (folder() / "ema.safetensors").exists():
        pytest.skip(f"no parity folder at {folder()} (set BAGEL_PARITY)")
    torch.set_num_threads(1)
    return load(folder(), "float32")


@pytest.fixture(scope="session")
def golden_pictures(official: Bundle) -> list[Pictures]:
    """The folder's pictures, each encoded by itself."""
    files = sorted(folder().glob("image*.png"))
    return [official.encode(np.asarray(on_white(Image.open(file)))[None]) for file in files]
