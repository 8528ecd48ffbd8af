"""Builds the compiled core; everything declarative is in pyproject.toml.

The kernels are compiled once per instruction set, each with its own flags; all else stays at the platform's
baseline. No link-time optimisation: code of a wider instruction set could leak into what every CPU runs.

Environment: GPT2C_NO_OPENMP=1 builds the C11-threads body of team.h; GPT2C_WERROR=1 makes warnings errors.
"""

import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-std=c11",
    "-O3",
    "-g0",
    "-fno-lto",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion"] + (["-Werror"] if os.environ.get("GPT2C_WERROR") else [])
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
ISAS = {"generic": []}
if X86:
    AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    AVX512 = [*AVX2, "-mavx512f", "-mavx512bw"]
    ISAS |= {
        "avx2": AVX2,
        "avxvnni": [*AVX2, "-mavxvnni"],
        "avx512": AVX512,
        "avx512vnni": [*AVX512, "-mavx512vnni"],
        "avx512bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"],
        "amx": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
    }
CORE = ["src/dispatch.c", "src/pack.c", "src/team.c", "src/plan.c", "src/attend.c", "src/run.c"]
HEADERS = [f"src/{name}" for name in sorted(os.listdir("src")) if name.endswith((".h", ".inc.c"))]
# The C core is linked into the first.
MODULES = ["_kernels", "_weights", "_cache", "_call", "_engine", "_ops", "_roofs"]
CYTHON = [f"gpt2c/core/{name}.pxd" for name in ("_kernels", "_weights", "_cache", "_call")]
KERNELS = {
    isa: f"src/kernels_{isa}.c"
    for isa in ("generic", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx")
}


class BuildCore(build_ext):
    """Compiles the C core into objects of their own and hands them to one extension."""

    def build_extension(self, ext):
        if ext.name == "gpt2c.core._kernels":
            openmp = [] if os.environ.get("GPT2C_NO_OPENMP") or not self.has_openmp() else ["-fopenmp"]
            macros = [("GPT2C_HAVE_X86", "1")] if X86 else []
            jobs = [(KERNELS[isa], flags) for isa, flags in ISAS.items()] + [(c, openmp) for c in CORE]

            def compile_one(job):
                source, flags = job
                return self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    macros=macros,
                    include_dirs=["src"],
                    depends=HEADERS,
                    extra_postargs=FLAGS + WARNINGS + flags,
                )

            with ThreadPoolExecutor(os.cpu_count()) as pool:  # each kernel file takes a quarter of a minute
                for objects in pool.map(compile_one, jobs):
                    ext.extra_objects += objects
            ext.extra_link_args += [*(openmp or ["-pthread"]), "-lm"]
        super().build_extension(ext)

    def has_openmp(self):
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.c")
            with open(source, "w") as file:
                file.write("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([source], output_dir=folder, extra_postargs=["-fopenmp"])
                self.compiler.link_executable(
                    objects, os.path.join(folder, "probe"), extra_postargs=["-fopenmp"]
                )
            except Exception:
                print("gpt2c: this compiler has no OpenMP; building with C11 threads")
                return False
        return True


def extension(name):
    return Extension(
        f"gpt2c.core.{name}",
        [f"gpt2c/core/{name}.pyx"],
        include_dirs=["src"],
        depends=[*CORE, *HEADERS, *KERNELS.values(), *CYTHON],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        extra_compile_args=["-std=c11", "-O2", "-g0", "-fvisibility=hidden"],
        py_limited_api=True,
    )


setup(
    ext_modules=cythonize([extension(name) for name in MODULES], build_dir="build"),
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
