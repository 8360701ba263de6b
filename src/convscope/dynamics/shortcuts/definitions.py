"""How each number of the shortcut audit is computed."""

from convscope.core.results import Definition

PINSON = "after Pinson, Lenaerts & Ginis (2023, arXiv:2303.02034)"
MOISAN = "Moisan (2011), periodic component"

_Z = "z = (log F − median) / (1.4826 MAD) over the neighbours"
_NULL = "Chance: the largest z where the labels of a sample of the images are permuted, over the permutations."

DEFINITIONS = {
    "coherent": Definition(
        "stripes in one place",
        f"F = [Σ_c n_c |m_cj − m_j|² / (p − 1)] / [within / (P − p)] of the complex coefficients at frequency j; {_Z}",
        f"ours, {PINSON}; {MOISAN}",
        "Of the images' periodic component, sums over colour channels. Neighbours: frequencies off the axes within 2 "
        "cycles of radius, the own pair left out; on an axis, those of the same axis. Radii below 3 cycles per image "
        f"are not tested. {_NULL}",
    ),
    "power": Definition(
        "stripes of varying place",
        f"the same analysis of variance of log |x̂_j|²; {_Z}",
        f"ours; {MOISAN}",
        f"It sees textures whose phase changes from image to image, which have no mean. {_NULL}",
    ),
    "pixel": Definition(
        "single pixels",
        f"F as for stripes, of each pixel less the mean of its four neighbours; {_Z}",
        "ours",
        f"Neighbours: the 9 × 9 pixels around; at the border, border pixels. {_NULL}",
    ),
    "colour": Definition(
        "class from mean colour",
        "share of images whose class means and extremes of the channels tell random trees, by cross-validation",
        "ours",
        "Chance: the share of the largest class, two errors each way.",
    ),
    "files": Definition(
        "class from file properties",
        "share of images whose class the files' size, format, compression and dimensions tell random trees, by "
        "cross-validation",
        "ours",
        "Chance: the share of the largest class, two errors each way.",
    ),
    "colour_z": Definition(
        "a class told by its colours",
        "z of one class's log odds of the area under the ROC curve among those of all classes",
        "ours",
        "The area: how well random trees that know only means and extremes of the channels tell the class from all "
        "others, by cross-validation.",
    ),
    "file_z": Definition(
        "a class told by its files",
        "as for colours; of a setting that tells classes, (accuracy − largest class) / error",
        "ours",
    ),
    "rank": Definition(
        "rank of strength",
        "place of ‖σ_j‖ among all frequencies, σ_j the column of Σ_yx F^H",
        f"ours, {PINSON}",
        "The stronger a frequency ties labels to pixels, the earlier a linear convolutional network takes it up. With "
        "one small network on CIFAR-10, planted stripes were used at rank 13 or stronger and not at 26 or weaker: "
        "indicative. Chance: the central 95 % of all ranks.",
    ),
    "limit": Definition(
        "faintest stripes noticed",
        "amplitude A of cos in one class of mean size for which F̃ + n (1 − n/P) C h w A² / (4 (p − 1) W) reaches the "
        "F of an alarm",
        "ours",
        "In units of the images, in all C channels alike; F̃: median F of the neighbours, W: variance within classes "
        "per frequency. Median over the tested frequencies off the axes.",
    ),
    "unchanged": Definition(
        "taken for the class, unchanged",
        "share of images of other classes that the network takes for the class",
        "ours",
    ),
    "added": Definition(
        "taken for the class, pattern added",
        "the same where the class's own pattern is added to the images",
        "ours",
        "For a frequency, the class's mean cosine less that of the others, amplitude and phase; for a pixel, what the "
        "means differ by within two pixels, less the level around. Error: half a Wilson interval of one standard "
        "error. Chance: the same pattern elsewhere, from the lowest to the highest end of the controls' 95 % Wilson "
        "intervals. Images are not clipped.",
    ),
    "opposite": Definition(
        "taken for the class, opposite pattern",
        "the same where the pattern is subtracted",
        "ours",
        "A network that uses the phase answers less than to the images unchanged.",
    ),
    "control": Definition(
        "taken for the class, pattern elsewhere",
        "the same with the pattern at other frequencies of like radius, or mirrored or moved to other places; mean",
        "ours",
    ),
    "network_accuracy": Definition(
        "accuracy of the network",
        "share of the images tried on whose class the network names",
        "ours",
        "Above always naming the most frequent class, outputs and labels are taken to belong together.",
    ),
}
