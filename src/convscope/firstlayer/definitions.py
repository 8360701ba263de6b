"""How each number of the first-layer theory is computed."""

from convscope.core.results import Definition

CW = "Chowers & Weiss (ICML 2023, arXiv:2206.02454)"

DEFINITIONS = {
    "formula": Definition(
        "formula fit",
        "Pearson r over components i of e_i = sqrt(mean_k (w_k · u_i)²) and (1 − exp(−τ λ_i²)) / λ_i, best over τ",
        f"{CW}, Definition 2.2 and Theorem 4.2",
        "u_i, λ_i²: eigenvectors and eigenvalues of the centred covariance of the patches that the layer sees. The "
        "initial weights are subtracted where they are known. The paper prints η²λ² below the fraction; its own "
        "derivation gives λ², which differs by a constant.",
    ),
    "formula_log": Definition(
        "formula fit of logarithms",
        "Pearson r of log e_i and the logarithm of the fitted formula",
        "ours",
        "The weak components count as much as the strong ones.",
    ),
    "bump": Definition("plain bump", "best Pearson r of e_i with exp(−(i − a)² / 2b²) over a and b", "ours (baseline)"),
    "eigenvalue_curve": Definition("eigenvalue curve", "Pearson r of e_i with λ_i", "ours (baseline)"),
    "inverse_curve": Definition("inverse eigenvalue curve", "Pearson r of e_i with 1 / λ_i", "ours (baseline)"),
    "ramp": Definition("linear ramp", "Pearson r of e_i with d + 1 − i", "ours (baseline)"),
    "margin": Definition("margin of the formula", "formula fit minus the best of the plain curves", "ours"),
    "age": Definition(
        "training age",
        "τ λ_1², τ = learning rate × steps (× gain of the later layers), fitted",
        f"{CW}, Theorem 4.2",
        "Means something only where the formula beats the eigenvalue curve and its inverse by 0.02.",
    ),
    "whitened_dimension": Definition("whitened dimension", "Σ_i (1 − exp(−τ λ_i²))", "ours, from the same theorem"),
    "held_out": Definition(
        "formula on unseen components",
        "τ fitted on components 1, 3, 5, …, Pearson r on 2, 4, 6, …; mean of this and of the reverse",
        "ours",
        "A curve drawn through the profile has nothing to go by on the components that it has not seen but smoothness.",
    ),
    "held_out_bump": Definition("plain bump on unseen components", "the same for the Gaussian bump", "ours (baseline)"),
    "untrained": Definition(
        "trained against untrained",
        "Pearson r of the energy profile with that of untrained weights",
        f"{CW}, Table 1",
    ),
    "per_filter": Definition(
        "formula fit, filters of equal length",
        "as the formula fit, after scaling every filter to unit length",
        "ours",
        "Under batch normalisation the length of a filter means nothing.",
    ),
    "norm_folded": Definition(
        "formula fit, batch norm folded",
        "as the formula fit, after multiplying filter k by γ_k / sqrt(σ_k² + ε)",
        "ours",
        "The batch norm is the module registered right after the convolution.",
    ),
    "formula_average": Definition(
        "formula fit from average patches",
        "as the formula fit, with the covariance of each image's average patch driving learning",
        f"{CW}, proof of Theorem 4.2",
        "Exact for linear networks with global average pooling. The paper equates the two covariances by assuming "
        "that patches of one image are uncorrelated.",
    ),
    "formula_signal": Definition(
        "formula fit with the measured signal",
        "as the formula fit, driven by S = Σ_Δ κ(Δ) Σ_Δ, κ the spatial autocorrelation of the gradient at the layer's "
        "output for random labels in the untrained network",
        "ours, generalising the theorem",
    ),
    "coherent_positions": Definition(
        "coherent positions",
        "Σ_Δ κ(Δ) / κ(0): over how many positions the back-propagated signal adds up",
        "ours",
        "1: decorrelated, the paper's formula holds. All positions of the layer's output: global average pooling.",
    ),
    "response": Definition(
        "response correlation",
        "C(δ) = tr(M Σ_δ) / tr(M Σ), M = WᵀW / k, mean of vertical and horizontal δ nearest to 10 pixels",
        f"{CW}, section 4.2, Figure 6",
        "Summed over channels; no forward pass is needed.",
    ),
    "response_raw": Definition("pixel correlation", "the same for the pixels themselves", f"{CW}, Figure 6"),
    "response_perfect": Definition(
        "perfect whitening",
        "the same for M = Σ⁻¹",
        f"{CW}, Figure 6",
        "The paper says zero; with patches smaller than the image slow components keep it above.",
    ),
    "whiteness": Definition(
        "whiteness", "(tr Z)² / (d tr Z²), Z = Σ^½ M Σ^½", "ours", "1 exactly where M is proportional to Σ⁻¹."
    ),
    "spectral_whiteness": Definition(
        "spectral whiteness", "(Σ e_i² λ_i²)² / (d Σ e_i⁴ λ_i⁴)", "ours", "What the energy profile sees of whiteness."
    ),
    "label_first": Definition(
        "label dependence, first order",
        "max_i F1_i, F1_i: between-class share of the variance of the average patch along u_i, over its expectation "
        "by chance",
        f"{CW}, Definition A.4, Figure 5",
        "Detectability, not effect size: it grows with the number of images.",
    ),
    "label_second": Definition(
        "label dependence, second order",
        "max_i F2_i: the same for the rank of an image's patch energy along u_i",
        f"{CW}, appendix D.1",
        "On the kept images (at most 512).",
    ),
    "label_index": Definition(
        "label dependence index",
        "1 − Pearson r of the profiles that a linear network learns from these labels and from uninformative ones",
        "ours, from the exact linear dynamics",
    ),
    "leading_share": Definition(
        "share of the leading direction", "λ_1² / Σ_i λ_i²", "standard", "Eigenvalues of the centred patch covariance."
    ),
    "dimension": Definition("effective dimension", "(Σ_i λ_i²)² / Σ_i λ_i⁴", "standard (participation ratio)"),
    "peak": Definition(
        "predicted peak",
        "the component with the largest predicted energy at training age 100",
        f"{CW}, Theorem 4.2",
        "Trained networks that were looked at have ages between 30 and 200.",
    ),
    "seeds": Definition(
        "consistency over seeds", "mean Pearson r of energy profiles of pairs of runs", f"{CW}, Table 1"
    ),
    "permuted_seeds": Definition(
        "consistency over seeds, permuted labels", "the same for runs on permuted labels", "ours"
    ),
    "labels": Definition(
        "true against permuted labels", "the same between runs on true and on permuted labels", f"{CW}, Table 2"
    ),
    "seeds_eigenvalue_curve": Definition(
        "runs against the eigenvalue curve", "mean Pearson r of the runs' energy profiles with λ_i", "ours (baseline)"
    ),
}
