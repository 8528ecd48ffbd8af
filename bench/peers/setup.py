"""Sets up the other engines: an environment with pinned packages, and llama.cpp for this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
LLAMA = "llama-cpp-python==0.3.36"
LLAMA_FLAGS = ["-DGGML_NATIVE=ON", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_TESTS=OFF"]
PACKAGE_FLAGS = ["-DLLAVA_BUILD=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_SERVER=OFF"]
PROGRAM_FLAGS = [
    "-DCMAKE_BUILD_TYPE=Release",
    *(f"-DLLAMA_{part}=OFF" for part in ("BUILD_APP", "BUILD_UI", "USE_PREBUILT_UI", "OPENSSL")),
]


def environment(work: Path, names: tuple[str, ...] = ()) -> Path:
    """The Python of an environment with the packages of requirements.txt, or with these of them."""
    python = work / "venv/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
    lines = REQUIREMENTS.read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if re.match(r"\w", line))
    wanted = [f"{name}=={pinned[name]}" for name in names or pinned]
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    subprocess.run([*pip, *index, *wanted], check=True)
    return python


def llama_source(python: Path, work: Path) -> Path:
    """The source of llama-cpp-python and llama.cpp, with a compiler barrier that GCC 12 needs on AMX.

    Without it the compiler drops the stores of the tile configuration as dead, and the process dies at the
    first prompt of a quantised model.
    """
    into = work / "source"
    pip = [python, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", into, LLAMA]
    subprocess.run(pip, check=True)
    (archive,) = into.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(into, filter="data")
    folder = into / archive.name.removesuffix(".tar.gz")
    file = folder / "vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
    text, call = file.read_text(), "    _tile_loadconfig(&tc);"
    if call not in text:
        raise SystemExit(f"{file} has changed: look whether it still needs a barrier before _tile_loadconfig")
    file.write_text(text.replace(call, '    __asm__ volatile("" : : "r"(&tc) : "memory");\n' + call))
    return folder


def llama_package(python: Path, work: Path) -> None:
    """Install llama-cpp-python, if it is missing."""
    if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode:
        flags = {"CMAKE_ARGS": " ".join(LLAMA_FLAGS + PACKAGE_FLAGS)}
        pip = [python, "-m", "pip", "install", llama_source(python, work)]
        subprocess.run(pip, check=True, env=os.environ | flags)


def llama_programs(python: Path, work: Path) -> Path:
    """The directory with llama-server and llama-quantize, built if they are missing."""
    programs = work / "llama/bin"
    wanted = ("llama-server", "llama-quantize")
    if not all((programs / name).exists() for name in wanted):
        source = llama_source(python, work) / "vendor/llama.cpp"
        build = programs.parent
        subprocess.run(["cmake", "-S", source, "-B", build, *LLAMA_FLAGS, *PROGRAM_FLAGS], check=True)
        subprocess.run(["cmake", "--build", build, "-j", "2", "--target", *wanted], check=True)
    return programs
