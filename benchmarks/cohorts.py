"""Synthetic tumours against real ones, leaving out one patient at a time.

A patient whom the synthesis has not seen is compared with the synthetic tumours made from the other
patients, and with these other patients. What separates patients sets the scale.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

FEWEST = 3  # patients; fewer have no spread to speak of

Samples = list[tuple[str, dict[str, NDArray[np.float64]]]]  # (donor, intensities by name)


def differences(real: pd.DataFrame, synthetic: pd.DataFrame) -> pd.DataFrame:
    """One row per feature, in standard deviations of the real tumours.

    Both tables have a row per tumour and its donor as index; each donor has one real tumour.
    `difference` is the mean of synthetic minus left-out patient, with its sign; `synthetic` and
    `patients` are how far the synthetic tumours, and the other patients, are on average from the
    left-out one. Features that fewer than 3 patients have, or that do not vary, are left out.
    """
    keep = (real.count() >= FEWEST) & (real.std() > 0) & (synthetic.count() > 0)
    real, synthetic = real.loc[:, keep], synthetic.loc[:, keep]
    made, others = (
        pd.DataFrame({d: table[table.index != d].mean() for d in real.index}).T
        for table in (synthetic, real)
    )
    apart, usual = (made - real) / real.std(), (others - real) / real.std()
    return pd.DataFrame(
        {
            "difference": apart.mean(),
            "synthetic": apart.abs().mean(),
            "patients": usual.abs().mean(),
        }
    )


def distances(real: Samples, synthetic: Samples) -> pd.DataFrame:
    """Wasserstein distance of the pooled intensities to those of a left-out patient, one row per
    name: `synthetic` of the tumours made from the others, `patients` of the others themselves.

    In units of the intensities; every tumour must give equally many of them to count the same.
    Names that fewer than 3 patients or no synthetic tumour have are left out.
    """
    rows = {}
    for name in sorted({name for _, samples in real for name in samples}):
        patients = {donor: samples[name] for donor, samples in real if name in samples}
        found: dict[str, list[float]] = {"synthetic": [], "patients": []}
        for donor, own in patients.items():
            for kind, cohort in (("synthetic", synthetic), ("patients", real)):
                pool = [s[name] for other, s in cohort if other != donor and name in s]
                if pool:
                    found[kind].append(float(wasserstein_distance(np.concatenate(pool), own)))
        if len(patients) >= FEWEST and found["synthetic"]:
            rows[name] = {kind: float(np.mean(values)) for kind, values in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["synthetic", "patients"])
