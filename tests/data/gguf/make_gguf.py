"""Records the hashes of the files that gguf-py makes of the model in tests/helpers/gguf_files.py.

pip install gguf==0.19.0
PYTHONPATH=tests python tests/data/gguf/make_gguf.py
"""

import hashlib
import json
import tempfile
from pathlib import Path

from helpers.gguf_files import DTYPES, by_gguf_py

with tempfile.TemporaryDirectory() as folder:
    hashes = {}
    for dtype in DTYPES:
        file = Path(folder) / dtype
        by_gguf_py(file, dtype, "small")
        hashes[dtype] = hashlib.sha256(file.read_bytes()).hexdigest()
Path(__file__).with_name("sha256.json").write_text(json.dumps(hashes, indent=1) + "\n")
