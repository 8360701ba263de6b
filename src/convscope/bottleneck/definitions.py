"""How each number of the bottleneck analysis is computed."""

from convscope.core.results import Definition

WJ = "Wen & Jacot (2024, arXiv:2402.08010)"
_REAL = (
    "A frequency w and its conjugate −w carry cosine and sine of one wave: two real directions for each channel. "
    "Frequency 0 and those at half a cycle per pixel carry one."
)

DEFINITIONS = {
    "rank": Definition(
        "directions for 99 % of the variance",
        "smallest r such that the r largest eigenvalues of the covariances M_w / n, all frequencies w together, hold "
        "99 % of their sum; M_w = Σ_images (z^(w) − mean) (z^(w) − mean)*",
        f"after {WJ}, bottleneck in the activations",
        "z^(w): unitary Fourier transform of what the convolution returns, one entry a channel, a batch norm that "
        f"follows folded in. A direction is a frequency in one mixture of channels. {_REAL} Chance: one untrained "
        "network of the same architecture on the same images.",
    ),
    "frequencies": Definition(
        "frequencies for 99 % of the variance",
        "smallest number of frequencies (w and −w as one) that hold 99 % of Σ_w tr M_w, over their number",
        f"after {WJ}, bottleneck in the activations",
        "Chance: one untrained network of the same architecture on the same images.",
    ),
    "participation": Definition(
        "effective number of frequencies",
        "(Σ V_w)² / Σ V_w², V_w the variance at frequency w",
        "participation ratio",
        "All if each has the same variance, 1 if one has it all.",
    ),
    "dc": Definition(
        "share of the mean over space",
        "variance at frequency 0 over Σ V_w",
        "ours",
        "Of what varies between images: the mean over images is taken out first.",
    ),
    "radius": Definition(
        "mean frequency",
        "Σ V_w |(ky / h, kx / w)| / Σ V_w, in cycles per pixel of the map",
        "ours",
    ),
    "grid": Definition(
        "pixels that would do, along the longer side",
        "smallest n such that the frequencies that a grid of the maps' proportions with n pixels along its longer side "
        "holds (2 |ky| < rows, 2 |kx| < columns) have 99 % of Σ_w V_w",
        f"ours, for the down-sampling of {WJ}",
        "Advice for a smaller network: what the non-linearities between layers make of a smaller grid is not known. "
        "Chance: one untrained network of the same architecture on the same images.",
    ),
    "cbn_rank": Definition(
        "kept directions in the weights",
        "k = argmax over k of (s₁ + … + s_k)² / k, all singular values s of all frequencies together, descending",
        f"ours, for the kept singular values of {WJ}",
        "The singular values are those of T(w), the convolution at frequency w, a batch norm that follows folded in: a "
        "fit of two levels, kept and zero, without a threshold.",
    ),
    "cbn_share": Definition(
        "share of directions kept in the weights",
        "k over the number of singular values",
        "ours",
        "Chance: Gaussian kernels of the same shape, mean ± 2 standard deviations.",
    ),
    "align": Definition(
        "two levels in the weights",
        "(s₁ + … + s_k)² / (k Σ s²): squared cosine of the angle to the closest map that keeps k directions at one "
        "level and drops the rest",
        f"ours, for the partial isometries of {WJ}",
        "1: the singular values have two levels, one of them zero. Chance: Gaussian kernels of the same shape, mean "
        "± 2 standard deviations.",
    ),
    "level": Definition("level of the kept singular values", "mean of s₁ … s_k", "ours"),
    "gap": Definition(
        "gap after the kept singular values",
        "s_k / s_{k+1}",
        "ours",
        "At most 10⁶: what is smaller is zero up to rounding.",
    ),
    "energy_rank": Definition(
        "directions for 99 % of the weights",
        "smallest number of singular values whose squares hold 99 % of Σ s²",
        "ours",
    ),
    "norm": Definition(
        "largest singular value",
        "max over w of s₁(T(w))",
        "Sedghi, Gupta & Long (2019, arXiv:1805.10408)",
        "Of the closest circulant where the convolution pads with zeros.",
    ),
    "norm_bound": Definition(
        "largest gain",
        "operator norm (circular padding), else the norm of a circulant on a larger torus that contains the operator",
        "ours, after Sedghi, Gupta & Long (2019, arXiv:1805.10408)",
        "No input grows by more than this factor (Euclidean norm, without the bias).",
    ),
    "stable_rank": Definition("stable rank of the weights", "Σ s² / s₁²", "usual"),
    "leak": Definition(
        "outside the frequencies",
        "1 − ‖closest circulant‖² / ‖convolution with its padding‖² (Frobenius)",
        "ours",
        "Zero padding is no map on a torus: its closest circulant is analysed. This is the share that it misses.",
    ),
    "sum": Definition(
        "directions of the sum",
        "directions for 99 % of the variance of what this convolution sees, where that is a sum of two branches",
        "ours",
        "In a residual network the sum carries what the branches leave alone.",
    ),
    "chain": Definition(
        "agreement with the next convolution",
        "Σ_w multiplicity ‖V_out(w) V_in(w)‖² / min(k, k′): kept outputs of one inside the kept inputs of the next",
        f"ours, after the chain of subspaces of {WJ}",
        "1: what one keeps is what the next one takes.",
    ),
    "narrowest": Definition(
        "directions at the narrowest layer",
        "smallest number of directions for 99 % of the variance over the convolutions",
        f"after {WJ}",
        "Chance: an untrained network of the same architecture at the same convolution.",
    ),
    "input_rank": Definition(
        "directions of the images",
        "directions for 99 % of the variance of what the first convolution sees",
        "ours",
        "Where the network does not pad circularly, a Hann window fades the images' borders first: their jump from one "
        "side to the other would count as high frequencies.",
    ),
    "narrowing": Definition(
        "narrowing",
        "directions at the narrowest layer over directions of the images",
        "ours",
        "Chance: the same of an untrained network.",
    ),
    "median_align": Definition(
        "two levels in the weights, median",
        "median over the convolutions of (s₁ + … + s_k)² / (k Σ s²)",
        "ours",
        "Chance: the medians of what Gaussian kernels of the same shapes give, mean ± 2 standard deviations.",
    ),
    "structure": Definition(
        "structure S",
        "mean align × (1 − mean share kept) × mean agreement with the next, over the convolutions but first and last",
        "ours",
        "0 without structure, towards 1 for a chain of layers that keep few and the same directions at one level.",
    ),
    "compression": Definition(
        "compression κ",
        "max(smallest k in the weights, smallest number of directions in the activations) / directions of the images, "
        "over the convolutions but first and last",
        "ours",
        "Below 1: the middle keeps less than the images fill. Structure alone is not enough: a network may keep "
        "everything in perfect order.",
    ),
    "balance": Definition(
        "balance residual",
        "max over layers of | ‖w_l‖² + ‖b_l‖² − ‖w_{l+1}‖² | / ‖w_{l+1}‖²",
        "ours (a stationary point of loss plus λ‖θ‖² has 0)",
        "Above 0.1 the training has not converged to a network of small norm, and costs say little.",
    ),
    "score": Definition("score", "S × (1 − min(1, κ))", "ours"),
    "cost": Definition("cost", "Σ_l ‖w_l‖² + ‖b_l‖²", f"{WJ}, representation cost", "Of this network."),
    "bound": Definition(
        "least cost",
        "(L / c) Σ_i s_i(J)^(2/L), the largest over some images; L layers, J the network's Jacobian, its singular "
        "values below 10⁻³ of the largest left out, c the geometric mean of what ‖W_l‖² / ‖w_l‖² can be",
        f"ours, a lower bound on the representation cost of {WJ}",
        "No network of L layers with this Jacobian at this image has a smaller sum of squared parameters. W_l: a layer "
        "as one matrix; for a circular convolution ‖W_l‖² / ‖w_l‖² is its number of positions.",
    ),
    "ideal": Definition(
        "cost of a chain that only passes on",
        "(L / c) K, K the largest rank of a Jacobian",
        f"ours, after the leading term of {WJ}",
        "K kept directions at level 1 in each of L layers.",
    ),
    "efficiency": Definition(
        "efficiency",
        "least cost / cost",
        "ours",
        "1: no network of this depth with these Jacobians has smaller parameters.",
    ),
    "regularity": Definition(
        "regularity",
        "(2 / c) Σ_i log s_i(J), at the image of the largest bound",
        f"ours, after the correction R₁ of {WJ}",
        "What the least cost has that does not grow with depth.",
    ),
    "gain": Definition("gain of a kept pair", "its singular value in the weights, batch norm folded in", "ours"),
    "share": Definition("share of the variance", "of the convolution's maps along this pair", "ours"),
    "importance": Definition(
        "loss without the pair",
        "relative change of the outputs, Σ |f′ − f|² / Σ |f − mean f|², when the pair is held at its mean",
        "ours",
    ),
    "stored": Definition(
        "stored numbers", "numbers in the factorised network's parameters over those of the network", "ours"
    ),
    "work": Definition("multiply-adds", "of the factorised convolutions over those of the network", "ours"),
    "lost": Definition(
        "loss by factorising",
        "accuracy before minus after (labels), else Σ |f′ − f|² / Σ |f − mean f|²",
        "ours",
        "On the half of the images that took no part in the choice. Refused where the upper end of its 95 % interval "
        "is beyond the tolerance.",
    ),
}
