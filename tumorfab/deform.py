"""A smooth deformation that carries the template's anatomy to one brain, beyond what is linear.

Free-form deformation by cubic B-splines (Rueckert et al., IEEE TMI 1999). It moves tissue priors
and template labels, never a scan: hosts keep their own anatomy.
"""

import numpy as np
import SimpleITK as sitk

from tumorfab import register, volume
from tumorfab.register import Mask
from tumorfab.volume import Volume

# Distance of the control points, and of the points at which images are compared, coarse to fine.
MESH_MM = 40.0
REFINED = (1, 2)
SAMPLE_MM = (6.0, 4.0)
ITERATIONS = 25
# A volume change below this share is folding, or as good as.
LEAST_JACOBIAN = 0.1


@register.single_thread()
def deformation(
    fixed: Volume, moving: Volume, mask: Mask, metric: str = register.CORRELATION
) -> sitk.BSplineTransform:
    """Points of `fixed` to points of `moving`, which lie on each other but for local differences.

    `mask` (on the grid of `fixed`) says where they are compared. Its Jacobian determinant is above
    `LEAST_JACOBIAN` everywhere: where the optimum would fold, the whole deformation is halved until
    it does not.
    """
    frame = volume.to_sitk(register.shrunk(fixed, SAMPLE_MM[0]))
    extent = np.array(frame.GetSize()) * np.array(frame.GetSpacing())
    mesh = np.maximum(1, np.rint(extent / MESH_MM)).astype(int).tolist()
    transform = sitk.BSplineTransformInitializer(frame, mesh, 3)
    for factor, mm in zip(REFINED, SAMPLE_MM, strict=True):
        one, other = (volume.to_sitk(register.shrunk(image, mm)) for image in (fixed, moving))
        share = register.shrunk(Volume(mask.astype(np.float32), fixed.affine), mm)
        method = sitk.ImageRegistrationMethod()
        if metric == register.CORRELATION:
            method.SetMetricAsCorrelation()
        else:
            method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
        method.SetMetricFixedMask(volume.to_sitk(share) >= 0.5)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsLBFGS2(numberOfIterations=ITERATIONS, solutionAccuracy=1e-4)
        method.SetInitialTransformAsBSpline(transform, inPlace=True, scaleFactors=[factor])
        transform = sitk.BSplineTransform(method.Execute(one, other))
    while least_jacobian(transform, frame) < LEAST_JACOBIAN:
        transform.SetParameters((0.5 * np.array(transform.GetParameters())).tolist())
    return transform


def least_jacobian(transform: sitk.Transform, frame: sitk.Image) -> float:
    """The smallest Jacobian determinant of a transform over the voxels of `frame`."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, frame.GetSize(), frame.GetOrigin(),
        frame.GetSpacing(), frame.GetDirection(),
    )  # fmt: skip
    determinant = sitk.DisplacementFieldJacobianDeterminant(field)
    return float(sitk.GetArrayViewFromImage(determinant).min())
