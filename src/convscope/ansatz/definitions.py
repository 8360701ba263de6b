"""How each number of the feature ansatz is computed."""

from convscope.core.results import Definition

BRPB = "Beaglehole, Radhakrishnan, Pandit & Belkin (2023, arXiv:2309.00570)"

DEFINITIONS = {
    "correlation": Definition(
        "alignment of filters and gradients",
        "Pearson r over the entries of WᵀW and (1/n) Σ_images Σ_outputs Σ_positions ∇_u f (∇_u f)ᵀ = Wᵀ S W",
        f"{BRPB}, abstract",
        "u: a patch; ∇_u f: the gradient of an output with respect to it; S: second moment of the gradients at the "
        "convolution's output. With S a multiple of the identity it is 1 whatever the weights are. Chance: S turned at "
        "random (Q S Qᵀ, Q uniform over rotations), which keeps its eigenvalues; central 95 %. One filter a group "
        "leaves nothing to turn: such a convolution has no chance, and in that of the median it counts with its value.",
    ),
    "untrained": Definition(
        "alignment before training",
        "the same correlation in the network before training, or in its untrained twin",
        f"{BRPB} (contrast)",
        "The twin has the same architecture and freshly drawn weights.",
    ),
    "gain": Definition(
        "change of alignment by training",
        "alignment minus alignment before training, both from the same images",
        "ours",
        "Against an untrained twin, one draw of the initial weights; its spread over draws is not in the error bar.",
    ),
    "change": Definition(
        "alignment of the change of the weights",
        "Pearson r over the entries of (W − W₀)ᵀ(W − W₀) and Wᵀ S W",
        "ours, after the paper's contrast of initial and trained weights",
        "W₀: the weights before training. It takes away the alignment that random weights have already.",
    ),
    "root": Definition(
        "alignment with the root",
        "Pearson r over the entries of WᵀW and (Wᵀ S W)^(1/2)",
        "the same authors' later code",
        "Two exponents are in use: 1 in the paper, 1/2 later.",
    ),
    "cosine": Definition(
        "cosine", "tr(WᵀW · Wᵀ S W) / (‖WᵀW‖ ‖Wᵀ S W‖)", f"{BRPB}, second convention", "As r, with the means left in."
    ),
    "folded": Definition(
        "alignment with batch norm folded in",
        "Pearson r over the entries of WᵀD²W and Wᵀ S W, D = γ / √(σ² + ε)",
        "ours",
        "For convolutions that a batch norm follows; the AGOP is the same either way.",
    ),
    "turned": Definition(
        "alignment, gradients turned at random",
        "mean of r with Q S Qᵀ instead of S, Q uniform over rotations",
        "ours (the null)",
        "Its chance band is the central 95 % of those turns.",
    ),
    "permuted": Definition(
        "alignment, output channels exchanged",
        "mean of r with S's rows and columns in a random common order",
        "ours (a second null)",
        "Its chance band is the central 95 % of those orders.",
    ),
    "overlap": Definition(
        "shared leading directions",
        "(1/r) Σ cos² of the principal angles between the leading r eigenvectors of WᵀW and of Wᵀ S W",
        "ours",
        "r is the effective rank of WᵀW, rounded up. Chance: S turned at random.",
    ),
    "nfm_rank": Definition("effective rank of WᵀW", "trace / largest eigenvalue", "ours"),
    "agop_rank": Definition("effective rank of the AGOP", "trace / largest eigenvalue", "ours"),
    "bias": Definition(
        "small-sample bias",
        "jackknife estimate of r minus what r would be with very many images",
        "Busing, Meijer & van der Leeden (1999)",
        "A second moment from few images has directions of its own, which changes r. It is not subtracted, but part of "
        "every error bar here, beside the jackknife standard error: the root of the sum of their squares.",
    ),
    "class_share": Definition(
        "share of the gradients",
        "trace of one output's AGOP over the sum over the outputs shown",
        "ours",
    ),
}
