"""Builds the compiled core; everything declarative is in pyproject.toml.

Cython generates each of EXTENSIONS from its .pyx file. The first one also contains the C core: the CORE files
and, for each entry of KERNELS, src/kernels_NAME.c compiled with that entry's flags. Everything else is
compiled for the platform's baseline. Link-time optimisation is off: code for a wider instruction set
could leak into what every CPU runs. One pool compiles all files, the slowest first; setuptools only links.

A new instruction set needs an entry in KERNELS, a file src/kernels_NAME.c and an entry in the table of
src/dispatch.c. If one is missing, the build fails: here in check_kernel_files, or there in the assertion on
the length of the table. If only the names differ, the extension lacks a symbol and cannot be imported.

Environment: CC chooses the compiler; GPT2C_NO_OPENMP=1 builds without OpenMP, with the pool of src/team.c
alone; GPT2C_WERROR=1 makes warnings in the C core errors; GPT2C_EMULATE_TILES=1 builds "amx" with
src/tiles_emulated.h, for tests on CPUs without tiles; GPT2C_COVERAGE=1 counts the lines that run, for gcov.
"""

import os
import platform
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from threading import Lock

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

EXTENSIONS = ["_kernels", "_weights", "_cache", "_call", "_engine", "_ops", "_roofs"]
CORE = ["dispatch", "pack", "team", "plan", "embed", "attend", "run"]
# At -O3 the portable kernels take three times as long to compile and run hardly faster. Only static functions
# take their 64-byte vectors, so the calling convention, which -Wpsabi is about, does not matter.
KERNELS = {"generic": ["-O2", "-Wno-psabi"]}
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
if X86:
    AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    AVX512 = [*AVX2, "-mavx512f", "-mavx512bw"]
    KERNELS |= {
        "avx2": AVX2,
        "avxvnni": [*AVX2, "-mavxvnni"],
        "avx512": AVX512,
        "avx512vnni": [*AVX512, "-mavx512vnni"],
        "avx512bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"],
        "amx": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
    }

COVERAGE = ["--coverage"] if os.environ.get("GPT2C_COVERAGE") else []
FLAGS = ["-std=c11", "-g0", "-fno-lto", "-fvisibility=hidden", *COVERAGE]
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")  # free-threaded Python has no stable ABI before 3.15
# False and others are immortal from Python 3.12 on. Compiled there, Cython's code loses references to them in
# 3.11, whatever the limited API: after some thousand calls, Python 3.11 would end.
OLDEST = min(sys.version_info[1], 12)
CYTHON_FLAGS = [*FLAGS, "-O2", *([f"-DPy_LIMITED_API=0x03{OLDEST:02X}0000"] if ABI3 else [])]
CORE_FLAGS = [
    *FLAGS,
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    f"-DGPT2C_TABLES={len(KERNELS)}",
    *(["-DGPT2C_HAVE_X86=1"] if X86 else []),
    *(["-DGPT2C_EMULATE_TILES=1"] if os.environ.get("GPT2C_EMULATE_TILES") else []),
    *["-Wall", "-Wextra", "-Wconversion"],
    *(["-Werror"] if os.environ.get("GPT2C_WERROR") else []),
]


class BuildCore(build_ext):
    """Compiles every source file in one pool and hands the objects to the extensions."""

    def build_extensions(self):
        check_kernel_files()
        if not self.builds("#include <Python.h>\nint main(void) { return 0; }\n"):
            raise SystemExit(
                f"gpt2c is compiled here, and {self.compiler.compiler[0]} cannot compile a program that "
                "includes Python.h: a C compiler and the headers of Python are needed. On Debian or Ubuntu: "
                "apt install gcc python3-dev"
            )
        self.force = True  # the objects are new, so link them
        self.one_at_a_time = Lock()
        jobs = self.jobs()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for (ext, _, _), objects in zip(jobs, pool.map(self.compile_one, jobs), strict=True):
                ext.extra_objects += objects
                ext.extra_link_args += COVERAGE
        super().build_extensions()

    def jobs(self):
        """What to compile, the slowest first: (extension, source, flags)."""
        kernels_module = self.extensions[0]
        openmp = ["-fopenmp"] if not os.environ.get("GPT2C_NO_OPENMP") and self.has_openmp() else []
        kernels_module.extra_link_args += [*(openmp or ["-pthread"]), "-lm"]
        generated = [(ext, source, CYTHON_FLAGS) for ext in self.extensions for source in ext.sources]
        kernels = [(kernels_module, kernel_file(isa), CORE_FLAGS + flags) for isa, flags in KERNELS.items()]
        core = [(kernels_module, f"src/{name}.c", CORE_FLAGS + openmp) for name in CORE]
        # another file first, since Cython is still at work on the first extension
        return generated[:1] + kernels[:1] + generated[1:] + kernels[1:] + core

    def compile_one(self, job):
        ext, source, flags = job
        if source.endswith(".pyx"):
            with self.one_at_a_time:  # Cython is not thread-safe
                (generated,) = cythonize([ext], build_dir=self.build_temp, emit_linenums=bool(COVERAGE))
            (source,), ext.sources = generated.sources, []
        return self.compiler.compile(
            [source], output_dir=self.build_temp, include_dirs=["src"], extra_postargs=flags
        )

    def has_openmp(self):
        program = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
        found = self.builds(program, ["-fopenmp"])
        if not found:
            print("gpt2c: this compiler has no OpenMP; building with a pool of POSIX threads")
        return found

    def builds(self, program, flags=()):
        """Whether a program can be compiled and linked."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.c")
            with open(source, "w") as file:
                file.write(program)
            try:
                objects = self.compiler.compile([source], output_dir=folder, extra_postargs=list(flags))
                executable = os.path.join(folder, "probe")
                self.compiler.link_executable(objects, executable, extra_postargs=list(flags))
            except (CompileError, LinkError):
                return False
        return True


def kernel_file(isa):
    return f"src/kernels_{isa}.c"


def check_kernel_files():
    """Every src/kernels_*.c has an entry in KERNELS and the other way round (all of them on x86 only)."""
    files = set(glob("src/kernels_*.c"))
    compiled = {kernel_file(isa) for isa in KERNELS}
    if X86 and files != compiled:
        raise SystemExit(f"KERNELS in setup.py and the files differ: {', '.join(sorted(files ^ compiled))}")


def extension(name):
    return Extension(f"gpt2c.core.{name}", [f"gpt2c/core/{name}.pyx"], py_limited_api=ABI3)


setup(
    ext_modules=[extension(name) for name in EXTENSIONS],
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": f"cp3{OLDEST}"}} if ABI3 else {},
)
