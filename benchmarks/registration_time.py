"""Time of our linear registration against ANTsPy's rigid and affine, on the same scan and thread.

    pip install antspyx
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 python -m benchmarks.registration_time \\
        --scan HEAD_T1w.nii.gz --mask HEAD_brain_mask.nii.gz

Both register MNI152 (its brain) to the stripped scan. Printed: seconds (least of the runs), and for
each the agreement with the template that our failure check uses, so that speed is not bought with
accuracy.
"""

import argparse
import time
from pathlib import Path

import ants
import numpy as np
import SimpleITK as sitk

from tumorfab import brain, mni152, register, volume
from tumorfab.volume import Volume


def ours(scan: Volume, mask: np.ndarray) -> sitk.AffineTransform:
    """Template points to scan points."""
    return brain.locate(scan, mask, "T1w").transform


def theirs(fixed: "ants.ANTsImage", moving: "ants.ANTsImage") -> sitk.AffineTransform:
    """The same by ANTs: rigid, then affine, from the centres of mass."""
    rigid = ants.registration(fixed, moving, type_of_transform="Rigid", random_seed=1)
    affine = ants.registration(
        fixed, moving, type_of_transform="Affine", random_seed=1,
        initial_transform=rigid["fwdtransforms"][0],
    )  # fmt: skip
    return register.flatten(sitk.ReadTransform(affine["fwdtransforms"][0]))


def as_ants(image: Volume) -> "ants.ANTsImage":
    """An ANTs image of a volume."""
    itk = volume.to_sitk(image)
    return ants.from_numpy(
        sitk.GetArrayFromImage(itk).T.astype(np.float32), itk.GetOrigin(), itk.GetSpacing(),
        np.reshape(itk.GetDirection(), (3, 3)),
    )  # fmt: skip


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--mask", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    scan = volume.load(args.scan)
    mask = volume.load_labels(args.mask).data > 0
    stripped = Volume(np.where(mask, scan.data, 0).astype(np.float32), scan.affine)
    mni = mni152.template()
    pair = as_ants(mni.t1), as_ants(stripped)
    seconds: dict[str, list[float]] = {"tumorfab": [], "ANTsPy": []}
    found = {}
    for _ in range(args.runs):  # in turn, so that both meet the same machine
        for name, run in (
            ("tumorfab", lambda: ours(stripped, mask)),
            ("ANTsPy", lambda: theirs(*pair)),
        ):
            start = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - start)
    print("| | seconds | agreement with the template |\n|---|---|---|")
    for name, taken in seconds.items():
        agreement = brain.agreement(stripped, found[name], brain.AROUND_MM)
        print(f"| {name} | {min(taken):.1f} | {agreement:.3f} |")
    print(f"\nANTsPy takes {min(seconds['ANTsPy']) / min(seconds['tumorfab']):.2f} times as long.")


if __name__ == "__main__":
    main()
