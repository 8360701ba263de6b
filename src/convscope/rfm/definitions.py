"""How each number of the kernel machines is computed."""

from convscope.core.results import Definition

BRPB = "Beaglehole, Radhakrishnan, Pandit & Belkin (2023, arXiv:2309.00570)"

DEFINITIONS = {
    "gain": Definition(
        "gain of feature learning, in percentage points",
        "100 · (share of the test images that an iteration gets right − the share that the fixed kernel gets right)",
        "ours",
        "The fixed kernel: the neural tangent kernel of the same network, whose metric on patches is the identity. The "
        "standard error is that of the mean over test images of the difference of right (1) and wrong (0): both "
        "machines saw the same ones. It does not hold what another draw of training images would change.",
    ),
    "test": Definition(
        "accuracy on test images",
        "share of the test images that are given their label",
        "ours",
        "No choice was made on these images (the official code chooses iteration and ridge on them). Standard error: "
        "√(p (1 − p) / n). Chance: always the most frequent class.",
    ),
    "selection": Definition(
        "accuracy on held-out images",
        "share of training images that are given their label by machines whose metric, too, was learned without them",
        "ours",
        "By cross-validation, or on one held-out part of many images. It chooses the iteration and the layer; the best "
        "of several, that of the chosen one is a little too high. Chance: always the most frequent class, or the "
        "same on labels permuted once, where that was computed, and 1.96 of its standard errors each way.",
    ),
    "gain_selection": Definition(
        "gain of feature learning on held-out images, in percentage points",
        "100 · (accuracy on held-out images − that of the fixed kernel)",
        "ours",
        "Its standard error is that of the mean over held-out images of the difference of right (1) and wrong (0): "
        "both machines predict the same images.",
    ),
    "loo": Definition(
        "leave-one-out accuracy",
        "share of training images given their label by the machine without them, at a metric learned with them",
        "ours; closed form from one eigendecomposition",
        "It chooses the ridge. From iteration 1 on the metric has seen the label that is left out, so that this number "
        "flatters the learned metric: it chooses nothing else.",
    ),
    "train": Definition(
        "accuracy on training images", "share of the training images that are given their label", "ours"
    ),
    "ridge": Definition(
        "ridge", "λ in (K / max K + λ I) α = Y", BRPB, "Chosen by the leave-one-out squared error at a fixed metric."
    ),
    "rank": Definition("rank of the metric", "number of directions of a patch that the kernel uses", "ours"),
    "effective_rank": Definition("effective rank of the metric", "trace / largest eigenvalue", "ours"),
    "share": Definition(
        "share of the leading patch",
        "largest eigenvalue over the trace of M, the average gradient outer product of the kernel machine over patches",
        f"{BRPB}, algorithm ConvRFM",
        "M = (1/n) Σ_images Σ_outputs Σ_positions ∇_u f (∇_u f)ᵀ with u a patch of the image; K then sees patches "
        "through M^(1/2).",
    ),
    "metric_nfm": Definition(
        "metric and filters of a CNN",
        "Pearson r over the entries of M and of WᵀW, W the first convolution of a CNN on the same images",
        f"{BRPB} (the comparison of their features)",
        "The CNN: the network of the kernel at a width of 64, trained with Adam for 20 epochs on the cross-entropy. "
        "Chance: the same network before training, central 95 % of eight draws of its weights.",
    ),
    "metric_agop": Definition(
        "metric and gradients of a CNN",
        "Pearson r over the entries of M and of the CNN's average gradient outer product at its first convolution",
        f"{BRPB} (the comparison of their features)",
        "Chance: the same network before training, central 95 % of eight draws of its weights, from at most 64 images.",
    ),
    "cnn": Definition("accuracy of the CNN", "share of the test images that the CNN gives their label", "ours"),
}
