"""How each number of the learning dynamics is computed."""

from convscope.core.results import Definition

PLG = "Pinson, Lenaerts & Ginis (2023, arXiv:2303.02034)"
SMG = "Saxe, McClelland & Ganguli (2014, arXiv:1312.6120)"
FOLDS = "Modes without one fold of images are matched to those of all by their overlap |⟨u, u′⟩| |⟨φ, φ′⟩|."
NULL = (
    "Chance: the mode of the same rank with permuted labels, central 95 %. Σ_yx is then drawn from a normal "
    "distribution of mean 0 and covariance Σ_y ⊗ Σ_xx / (n − 1), its covariance over permutations, with Σ_xx from 256 "
    "random sums of images taken in the same pass. Labels are permuted image by image, even where several are crops of "
    "one photograph."
)

DEFINITIONS = {
    "singular_value": Definition(
        "singular value of a mode",
        "s of Σ_yx = E[(y − E y)(x − E x)ᵀ] = U S Vᵀ, y the one-hot label, x the image",
        f"{PLG}, abstract; definitions as restated by He et al. (2024)",
        f"In units of the images; nothing is rescaled. Uncentred where so asked for. {FOLDS} {NULL}",
    ),
    "effective": Definition(
        "effective singular value",
        "s √N max_j |F φ|_j, F the unitary Fourier transform, N the number of pixels",
        f"ours, from the mode equation of {PLG}",
        "What the interplay of data and convolution makes of s: small weights of a linear CNN with kernels as large as "
        f"the images grow as fast as those of a dense network would for this singular value. {NULL}",
    ),
    "steps": Definition(
        "steps until a mode is half learned",
        "first t with uᵀ E[ŷ xᵀ] φ ≥ s/2, times (1 − momentum) / learning rate",
        f"{PLG} (linear CNN, gradient flow); exact dynamics, stages and closed form: ours, from it",
        "Loss: half the squared error, summed over outputs, mean over images; for torch.nn.MSELoss, a mean over "
        "outputs, multiply by half their number. Standard error: the jackknife's of the logarithm of the closed form's "
        "half-time, whichever method gave the value; chance: the closed form with permuted labels. Neither is known "
        "for small kernels, zero padding and more than two layers, which have no closed form.",
    ),
    "dense_steps": Definition(
        "steps until a fully connected network has half learned a mode",
        "ln(s/a₀ − 1) / (2 s), times (1 − momentum) / learning rate; a₀ = φᵀ Σ_xx φ · hidden · std² / 2",
        f"{SMG}, eq. 10 to 12",
        "Two linear layers, initial weights of the same spread, as many hidden units as the CNN's first layer has "
        "outputs. Modes are taken to be learned each by itself.",
    ),
    "dominant_energy": Definition(
        "energy in the five strongest pairs of frequencies",
        "Σ |F φ|² over the five pairs ±(ky, kx) where it is largest",
        f"ours, after {PLG}",
        f"1: the mode is made of five waves at most. {NULL}",
    ),
    "participation": Definition(
        "frequencies over which a mode spreads",
        "participation ratio 1 / Σ_j |F φ|_j⁴",
        "ours",
        f"1: overall brightness alone; 2: one wave; N: all frequencies alike. {NULL}",
    ),
    "used_energy": Definition(
        "share of what the network uses in the mode's five strongest frequencies",
        "Σ |F b|² / ‖b‖² over the five pairs where |F φ|² is largest; b = uᵀ B at the mode's half-time, B the "
        "network's linear map",
        f"ours, for the dominant frequency bias of {PLG}",
        "By the exact dynamics. Above the mode's own share, the network has found it by its dominant frequencies.",
    ),
    "used_participation": Definition(
        "frequencies that the network uses for a mode",
        "participation ratio of uᵀ B at the mode's half-time",
        f"ours, for the dominant frequency bias of {PLG}",
    ),
    "beyond": Definition(
        "modes stronger than chance",
        "number of modes whose singular value less two standard errors exceeds the upper end of chance for its rank",
        "ours",
        "Chance: how many of a draw with permuted labels exceed it.",
    ),
    "fastest": Definition(
        "fastest growth of a frequency",
        "max_j √N ‖σ_j‖₂, σ_j the column of Σ_yx Fᴴ; per step: times learning rate / (1 − momentum)",
        "ours, from the dynamics of small weights",
        "e-folds of the weights' amplitude per step, of kernels as large as the images.",
    ),
    "order": Definition(
        "rank correlation of half-times with 1/s",
        "Spearman's correlation over the modes",
        "ours",
        "Chance: ± 1.96 / √(m − 1) for m modes in random order.",
    ),
    "order_effective": Definition(
        "rank correlation of half-times with 1 / effective singular value",
        "Spearman's correlation over the modes",
        "ours",
        "Chance: ± 1.96 / √(m − 1) for m modes in random order.",
    ),
    "speed_up": Definition(
        "how many times sooner a CNN half learns the first mode than a fully connected network",
        "half-time of the fully connected network over that of the linear CNN",
        f"{PLG}; {SMG}",
        "Small weights grow s √N max |F φ| / s times as fast, between 1 and √N. Standard error and chance: closed "
        "forms.",
    ),
    "easiest_pair": Definition(
        "effective singular value of the pair of classes told apart first",
        "largest over pairs of classes of s √N max |F φ| of the data set of both classes alone",
        "ours",
        "Chance: the largest over pairs with permuted labels.",
    ),
    "hardest_pair": Definition(
        "effective singular value of the pair of classes told apart last",
        "smallest over pairs of classes of s √N max |F φ| of the data set of both classes alone",
        "ours",
        "Chance: the smallest over pairs with permuted labels.",
    ),
    "off_diagonal": Definition(
        "how much modes drive each other",
        "norm of the off-diagonal part of Vᵀ Σ_xx V over that of the whole",
        "ours",
        "0: the mode equation's assumption holds exactly.",
    ),
    "invariance": Definition(
        "how much other directions of the images drive the modes",
        "‖Vᵀ Σ_xx − (Vᵀ Σ_xx V) Vᵀ‖ / ‖Vᵀ Σ_xx‖",
        "ours",
        "0: the mode equation's assumption holds exactly.",
    ),
    "frequency_coupling": Definition(
        "how much frequencies are tied to each other",
        "norm of the part of F Σ_xx Fᴴ that ties different frequencies over that of the whole",
        "ours",
        "0: the images' statistics are the same everywhere in the image, and the closed form is exact.",
    ),
    "imbalance": Definition(
        "imbalance of the classes",
        "images of the largest class over those of the smallest that has any",
        "ours",
        "Modes that set a large class apart have large singular values, and are learned first.",
    ),
    "order_measured": Definition(
        "rank correlation of measured with predicted half-times",
        "Spearman's correlation over the modes that were half learned",
        "ours",
        "Predicted from the initial weights and the same images for linear networks; else for a linear CNN. Chance: ± "
        "1.96 / √(m − 1) for m modes in random order.",
    ),
    "times_measured": Definition(
        "error of the predicted half-times",
        "median over the modes of |measured / predicted − 1|",
        "ours",
        "Of one training; what is left is the size of its steps, and the closed form's error where that was used.",
    ),
    "trained_accuracy": Definition(
        "accuracy on the images trained on",
        "share of them that the network gives their label",
        "ours",
        "Chance: always the most frequent class.",
    ),
    "half_measured": Definition(
        "steps until a mode was half learned",
        "first step at which uᵀ E[ŷ xᵀ] φ is half of the same with labels in place of ŷ",
        f"{PLG}; {SMG}",
        "Modes are those of the images trained on.",
    ),
    "half_expected": Definition(
        "steps until a mode should be half learned",
        "half-time (1 − momentum) / learning rate",
        f"ours, from {PLG}",
        "For networks with ReLUs: that of a linear CNN, times a factor that makes the first mode agree.",
    ),
    "used_participation_measured": Definition(
        "frequencies that the network uses for a mode",
        "participation ratio of the spectrum of uᵀ (J − J₀), J the mean input Jacobian when the mode is half learned",
        "ours",
        "J₀: at the start.",
    ),
    "used_energy_measured": Definition(
        "share of what the network uses in the mode's five strongest frequencies",
        "energy of uᵀ (J − J₀) in the five pairs where |F φ|² is largest, over all of it",
        "ours",
    ),
    "clean_accuracy": Definition(
        "accuracy on whole images",
        "share of the images that the network gives their label",
        "ours",
        "Standard error over images. Chance: permuted labels. They are images of this report: where the network was "
        "trained on them, it is the more right.",
    ),
    "kept_accuracy": Definition(
        "accuracy on images with few frequencies",
        "share of images given their label when only the first frequencies of a ranking are kept in x − mean image",
        f"ours, for the dominant frequency bias of {PLG}",
        "Rankings: ‖σ_j‖, how much classes' mean images differ at a frequency; F ratio, that over the spread within "
        "classes; mean power. Chance: as many random frequencies.",
    ),
    "follows_phase": Definition(
        "images given the class of their phases",
        "share, when each image's phases are combined with the amplitudes of one of another class",
        "ours",
        "Chance: the same predictions with the pairs permuted.",
    ),
    "follows_amplitude": Definition(
        "images given the class of their amplitudes",
        "share, when each image's phases are combined with the amplitudes of one of another class",
        "ours",
        "Chance: the same predictions with the pairs permuted.",
    ),
    "phase_preference": Definition(
        "preference for phases over amplitudes",
        "images given the class of their phases, over those given the class of either",
        "ours",
        "1/2: no preference. Amplitudes hold texture, contrast and colour; phases hold shape.",
    ),
    "same_class_accuracy": Definition(
        "accuracy where phases and amplitudes come from images of one class",
        "share of such images that are given their label",
        "ours",
        "What the artefacts of swapping alone do.",
    ),
}
