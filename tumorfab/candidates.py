"""The samples of a study on their way into a release: found, checked, and told without names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumorfab import datasets, plan, privacy, samples, stage, verdicts
from tumorfab.bank import case_files
from tumorfab.manifest import Sample
from tumorfab.stage import InputError
from tumorfab.verdicts import Verdicts
from tumorfab.volume import load_grid, load_on


@dataclass(frozen=True)
class Draft:
    """A sample of the study on its way into the release: its subject's own id, its sidecar and what
    that holds."""

    sample: Sample
    subject: str
    sidecar: Path
    record: dict[str, Any]

    def files(self, modalities: list[str]) -> dict[str, Path]:
        """Its volumes in the study, by modality and dseg."""
        images = {m: samples.image(self.sidecar, m) for m in modalities}
        return images | {"dseg": samples.dseg(self.sidecar)}


@dataclass(frozen=True)
class Study:
    """What a release is made from."""

    results: Path
    folder: Path
    config: dict[str, Any]
    names: dict[str, str]

    @property
    def modalities(self) -> list[str]:
        """The images of a sample."""
        return list(self.config["modalities"])

    @property
    def space(self) -> str:
        """Label of the analysis space."""
        return str(self.config["space"]["label"])

    @property
    def hidden(self) -> set[str]:
        """Ids of subjects that must not be in the release."""
        return {subject for subject, name in self.names.items() if subject != name}


def drafts(study: Study, hosts: list[str], draws: int) -> list[Draft]:
    """Every sample of the study that a release may hold, in the release's order. Raises
    `InputError` for a missing one."""
    found = []
    for host in hosts:
        for kind in plan.kinds(study.config):
            for number in range(draws):
                sidecar = study.folder / f"sub-{host}" / "anat"
                sidecar /= f"sub-{host}_space-{study.space}_desc-{kind}{number:03d}.json"
                sample = Sample(kind, study.names[host], number)
                found.append(Draft(sample, host, sidecar, stage.read_json(sidecar)))
    return sorted(found, key=lambda draft: draft.sample.id)


def inspect(draft: Draft, study: Study) -> list[str]:
    """Why a sample may not be released, one line per reason."""
    anat = study.results / f"sub-{draft.subject}" / "anat"
    mask = case_files(anat, draft.subject, study.space)["brain"]
    files = draft.files(study.modalities)
    grid = load_grid(files["dseg"])
    brain = load_on(mask, grid, labels=True) > 0
    found = []
    if brain.sum() * grid.voxel_volume / 1000 > privacy.MOST_BRAIN_ML:
        found.append(f"{mask}: is larger than any brain; the scan may show a face")
    for what, path in files.items():
        found += [f"{path}: header holds {place}" for place in privacy.header_text(path)]
        if outside := privacy.outside(load_on(path, grid, what == "dseg"), brain):
            found.append(f"{path}: {outside} voxels outside the brain are not 0")
    return found


def released(draft: Draft, study: Study, held: Verdicts) -> dict[str, Any]:
    """The sidecar of a released sample: the study's, its subjects renamed, with the tumours' sites
    in MNI152 and what gate and review said. Raises `InputError` where an id is left in it."""
    about = case_files(draft.sidecar.parent, draft.subject, study.space)["about"].name
    anat = study.results / f"sub-{draft.subject}" / "anat"
    to_mni = np.array(stage.read_json(anat / about)["mni_from_space"])
    affine = load_grid(samples.dseg(draft.sidecar)).affine
    sites = [t["pose"]["site"] for t in draft.record["draw"]["tumours"]]
    record: dict[str, Any] = privacy.renamed(draft.record, study.names)
    record["donors"].sort()
    del record["volumes_sha256"]  # of files under their old names; SHA256SUMS has them all
    record |= {
        "Description": f"Label map of a synthetic sample. {datasets.KINDS[draft.sample.kind]}.",
        "SpatialReference": reference(study),
        "site_mni_mm": [[round(v, 2) for v in (to_mni @ affine @ [*s, 1])[:3]] for s in sites],
        "gate": held.gate.get(verdicts.key(draft.sidecar), {}),
        "review": held.review.get(verdicts.key(draft.sidecar), {}),
    }
    if left := privacy.leaks(record, study.hidden):
        raise InputError(
            f"{draft.sidecar}: would publish the id of a subject in {left[0]!r}; set "
            "release.source_ids, or rename the subject"
        )
    return record


def reference(study: Study) -> str:
    """BIDS URI of the image that the analysis space is aligned with."""
    return f"bids::tpl-{study.space}/anat/tpl-{study.space}_T1w.nii.gz"
