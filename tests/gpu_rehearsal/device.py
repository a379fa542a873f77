"""Makes torch believe in one CUDA device that computes nothing: `python device.py PROGRAM ...`.

Before autograd goes backwards on a device it asks the device's guard and hooks, and a torch that
finds no GPU has none that answer. `device.cpp` has some that do; builds of torch for CPUs and for
CUDA take them alike.
"""

import ctypes
import importlib.util
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")


def pretend() -> None:
    """Compiles the device with the system's g++ (some seconds) and takes it into this process."""
    assert "torch" not in sys.modules, "torch has already looked for devices"
    found = importlib.util.find_spec("torch")
    assert found is not None
    home = Path(str(found.origin)).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "device.so")
        how = ("-O0", "-shared", "-fPIC", "-std=c++20", f"-I{home / 'include'}")
        with_torch = (f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu")
        subprocess.run(["g++", *how, SOURCE, "-o", library, *with_torch], check=True)
        for name in ("libc10.so", "libtorch_cpu.so"):
            ctypes.CDLL(str(home / "lib" / name), mode=ctypes.RTLD_GLOBAL)
        device = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import torch

    assert torch.cuda.device_count() in (0, 1)
    # A CUDA build has set its own guard by now.
    device.take_over_guard()


if __name__ == "__main__":
    pretend()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
