"""Evidence that w* is a local minimum, and how far off the LLC could be if it is not quite.

A point with gradient g is off the minimum of its basin by a Newton step, which biases the LLC by

    shift_bias = nbeta * 1/2 g^T (H + gamma/nbeta)^-1 g.

It is compared with the Laplace-type LLC, sum_i 1/2 nbeta h_i / (nbeta h_i + gamma) over the
positive curvatures. On a kink the gradient need not vanish; there g is the smallest element of
the generalised gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array

from lambda_hat.problems.curvature import Curvature, gradient, shift_bias
from lambda_hat.problems.forms import ProblemForm
from lambda_hat.problems.kinks import escape_gain, kink_shift_bias

_ADVICE = "Raise training.polish_steps, training.restarts or training.shakes."


def gather_evidence(
    form: ProblemForm,
    arrays: dict,
    w: Array,
    curvature: Curvature,
    rng: np.random.Generator,
    *,
    shift_bias_tol: float,
    advice: str = _ADVICE,
) -> dict[str, Any]:
    """The evidence for `w` as JSON types; `status` is ok, kink or refused.

    `advice` ends the sentences of what speaks against it.
    """
    grad = np.asarray(gradient(form, arrays, w))
    if not np.all(np.isfinite(grad)):
        reason = "The loss must stay finite in training, but did not. Lower learning_rate."
        return {"status": "refused", "reasons": [reason]}
    smooth = least = shift_bias(form, arrays, w, curvature, grad)
    allowed, on_kink = shift_bias_tol * curvature.laplace_llc, False
    if smooth > allowed and form.has_kinks:
        least = min(smooth, kink_shift_bias(form, arrays, w, curvature, rng))
        on_kink = least <= allowed
    escape = escape_gain(form, arrays, w, curvature)
    reasons = _reasons(least, escape, allowed, curvature, advice)
    return {
        "status": "refused" if reasons else "kink" if on_kink else "ok",
        "reasons": reasons,
        "shift_bias": least,
        "relative_shift_bias": least / curvature.laplace_llc if least > 0 else 0.0,
        "smooth_shift_bias": smooth,
        "escape_gain": escape,
        "laplace_llc": curvature.laplace_llc,
        "least_curvature": float(curvature.values.min()),
        "largest_curvature": float(curvature.values.max()),
    }


def _reasons(
    shift: float, escape: float, allowed: float, curvature: Curvature, advice: str
) -> list[str]:
    reasons = []
    if not shift <= allowed:
        reasons.append(
            f"w* must be a local minimum, with a predicted shift bias of at most {allowed:.3g} "
            f"(of an LLC of about {curvature.laplace_llc:.3g}), but it is {shift:.3g}. "
            f"{advice}"
        )
    least = curvature.values.min()
    falls = escape > allowed if curvature.vectors is not None else least + curvature.ridge <= 0
    if falls:
        reasons.append(
            "w* must be a local minimum, but the loss curves downwards from it (curvature "
            f"{least:.3g}). {advice}"
        )
    return reasons
