"""The bill of materials (CycloneDX 1.6, JSON) of what a wheel holds, not of what it requires.

gpt2c itself, GNU libgomp, the code that Cython generated, and each folder of gpt2c/data, with the hash of
every file. A folder or library that is not known here is an error, so that nothing is left out.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from email.parser import HeaderParser
from importlib.metadata import version

from archives import epoch
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

MODEL, DATA = ComponentType.MACHINE_LEARNING_MODEL, ComponentType.DATA
FOLDERS = {
    "gpt2": ("GPT-2's vocabulary", DATA, "OpenAI", DisjunctiveLicense(name="OpenAI's modified MIT License")),
    "model": ("the bundled story model", MODEL, "gpt2c", DisjunctiveLicense(id="MIT")),
    "masked": ("the bundled masked model", MODEL, "gpt2c", DisjunctiveLicense(id="MIT")),
    "dates": ("the bundled model of dates", MODEL, "gpt2c", DisjunctiveLicense(id="MIT")),
}
"""The folders of gpt2c/data: name, kind, who made it, licence."""


def files_of(files: Mapping[str, bytes], prefix: str) -> list[Component]:
    """A component with its hash for each file whose name begins so."""
    return [
        Component(
            name=name,
            type=ComponentType.FILE,
            bom_ref=name,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(files[name]).hexdigest())],
        )
        for name in sorted(files)
        if name.startswith(prefix)
    ]


def data_folders(files: Mapping[str, bytes]) -> list[Component]:
    """The models and vocabularies."""
    found = sorted({name.split("/")[2] for name in files if re.match(r"gpt2c/data/[^/]+/", name)})
    if unknown := set(found) - set(FOLDERS):
        raise SystemExit(f"bill.py: name the licence of gpt2c/data/{', '.join(sorted(unknown))} in FOLDERS")
    return [
        Component(
            name=title,
            type=kind,
            bom_ref=f"gpt2c/data/{folder}",
            supplier=OrganizationalEntity(name=maker),
            licenses=[licence],
            components=files_of(files, f"gpt2c/data/{folder}/"),
        )
        for folder, (title, kind, maker, licence) in ((name, FOLDERS[name]) for name in found)
    ]


def package_of(files: Mapping[str, bytes]) -> PackageURL | None:
    """The system's package that libgomp is from, if auditwheel found it."""
    bills = [json.loads(text) for name, text in files.items() if name.endswith("/sboms/auditwheel.cdx.json")]
    found = [part["purl"] for bill in bills for part in bill["components"] if "libgomp" in part["name"]]
    return PackageURL.from_string(found[0]) if found else None


def libraries(files: Mapping[str, bytes]) -> list[Component]:
    """What auditwheel added."""
    package = package_of(files)
    names = [name.rpartition("/")[2] for name in files if name.startswith("gpt2c.libs/")]
    if unknown := [name for name in names if not name.startswith("libgomp-")]:
        raise SystemExit(f"bill.py: the wheel holds {', '.join(unknown)}, whose licence is not known here")
    return [
        Component(
            name="libgomp",
            type=ComponentType.LIBRARY,
            version=package.version if package else name.rpartition(".so.")[2],
            purl=package,
            description="GNU OpenMP from the system that the wheel was built on, stripped and renamed",
            bom_ref=f"libgomp/{name}",
            supplier=OrganizationalEntity(name="Free Software Foundation"),
            licenses=[LicenseExpression("GPL-3.0-or-later WITH GCC-exception-3.1")],
            external_references=[
                ExternalReference(
                    type=ExternalReferenceType.VCS, url=XsUri("https://gcc.gnu.org/git/gcc.git")
                )
            ],
            components=files_of(files, f"gpt2c.libs/{name}"),
        )
        for name in names
    ]


def cython() -> Component:
    """Whose code is part of each compiled module."""
    return Component(
        name="Cython",
        type=ComponentType.LIBRARY,
        version=version("Cython"),
        description="generated the code around the C core",
        bom_ref="cython",
        purl=PackageURL("pypi", name="cython", version=version("Cython")),
        licenses=[DisjunctiveLicense(id="Apache-2.0")],
    )


def bill_of_materials(files: Mapping[str, bytes]) -> bytes:
    """The bill of the files of a wheel. Equal files give equal bytes."""
    (metadata,) = (text for name, text in files.items() if name.endswith(".dist-info/METADATA"))
    released = HeaderParser().parsestr(metadata.decode())["Version"]
    itself = Component(
        name="gpt2c",
        type=ComponentType.LIBRARY,
        version=released,
        bom_ref="gpt2c",
        purl=PackageURL("pypi", name="gpt2c", version=released),
        licenses=[DisjunctiveLicense(id="MIT")],
        components=files_of(files, "gpt2c/core/_"),
    )
    parts = [*libraries(files), cython(), *data_folders(files)]
    everything = "".join(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, everything), components=parts)
    bom.metadata.component = itself
    bom.metadata.timestamp = datetime.datetime.fromtimestamp(epoch(), datetime.UTC)
    bom.register_dependency(itself, parts)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"bill.py: the bill of materials is not valid: {error}")
    return (text + "\n").encode()
