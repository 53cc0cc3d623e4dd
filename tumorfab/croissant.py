"""What a release says of itself to programs: Croissant 1.0 metadata (JSON-LD) of its manifest."""

from collections.abc import Mapping
from typing import Any

from tumorfab import manifest
from tumorfab.datasets import PAPER

FORMATS = {manifest.CSV: "text/csv", manifest.PARQUET: "application/x-parquet"}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES = {bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float", str: "sc:Text"}


def describe(
    about: Mapping[str, Any], row: Mapping[str, Any], sums: Mapping[str, str]
) -> dict[str, Any]:
    """The metadata; `row` is any row of the manifest, `sums` has the SHA-256 of its two files."""
    renamed = "keep their ids" if about["source_ids"] else "are renamed"
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": about["name"],
        "version": about["version"],
        **({"datePublished": about["date"]} if about["date"] else {}),
        "description": "Synthetic brain-tumour MRI with labels: real tumours placed in healthy "
        "brains (TF-Aug) and refined by a generative network (TF-GAN).",
        "license": about["licence_url"] or about["licence"],
        "url": PAPER,
        "creator": [{"@type": "sc:Organization", "name": name} for name in about["authors"]],
        "citeAs": f"{about['name']} {about['version']}; see CITATION.cff",
        "keywords": ["brain tumour", "MRI", "synthetic", "segmentation"],
        "isLiveDataset": False,
        "rai:dataLimitations": "Synthetic tumours. For research only, not for diagnosis.",
        "rai:personalSensitiveInformation": f"Stripped; headers scrubbed; subjects {renamed}.",
        "distribution": [_file(path, sums[path]) for path in FORMATS],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "key": {"@id": "samples/sample"},
                "field": [_field(column, value) for column, value in row.items()],
            }
        ],
    }


def _file(path: str, digest: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "encodingFormat": FORMATS[path],
        "sha256": digest,
    }


def _field(column: str, value: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"samples/{column}",
        "name": column,
        "dataType": _TYPES[type(value)],
        "source": {"fileObject": {"@id": manifest.CSV}, "extract": {"column": column}},
    }
