"""Limits beyond which a measurement of a network or its training is reported as an issue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Limits beyond which a measurement is reported as an issue.

    Args:
        probable: probability from which a cause is reported as an issue; below it is a candidate.
        proven: probability of a cause that a test or a short training run has shown: no further
            runs look for others, and what is only typical of it counts less.
        warned: probability from which `watch` warns.
        learned: improvement over a constant prediction (see `Diagnosis`) below which nothing was
            learned, if it is not clear of what shuffled inputs give.
        clear: standard deviations by which the loss must be below that of shuffled inputs to count
            as learned: chance reaches four in one of 30,000.
        low_improvement: improvement below which short training runs are made to find the cause.
        improvement: improvement over a constant prediction (see `Diagnosis`) above which vanishing
            gradients are not reported: what there was to learn was near.
        step_improvement: the same for a network with an output at every step, where much is near.
        good_improvement: improvement above which spikes of the gradient norm, nearly closed gates
            and faults that can be lived with are not reported.
        small_improvement: improvement from which a network is not called too small.
        high_improvement: improvement above which a swinging loss and overfitting are not reported.
        helps: share of the constant prediction's loss by which a short run must end lower than
            another to count as better.
        tried: the same for a remedy that is tried to count as a help.
        vanished: share of the gradient at the last step that is left at the first third of the
            sequence; below a thousandth it is lost in the noise of the last steps.
        layer_vanished: share of the top layer's gradient that reaches the lowest layer.
        deep: layers from which a single one is tried: deeper stacks have to be made to learn.
        exploded: factor by which a gradient may grow from the last step to the first.
        growth: growth per step that counts as exploding, if its confidence interval is above 1.
        spikes: share of training steps with a gradient norm above ten times the usual.
        gradient_norm: usual gradient norm before clipping that counts as exploding.
        correlation: correlation of the weights of two layers at which they count as identical.
        identical: deviation of the units' states from one another, in their size, below which they
            are the same.
        dead: share of a layer's ReLU units that are zero at all steps of all sequences.
        saturated: share of the values of a gate, or of a tanh layer, at an end of their range.
        closed: mean of an update, input or output gate below which nothing passes.
        forget_gate: mean of a forget gate below which nothing is kept: a hundredth in three steps.
        oscillation: share of the second half of training in which the loss swings by more than a
            fifth of itself around a level above its best.
        overshoot: factor by which the mean of 10 losses may exceed the first loss, and that of the
            best constant prediction.
        gain: root of the mean sum of squares of a row of recurrent weights; initially 0.6 to 1.
        movement: share of their size by which all updates of a run together could move the weights;
            below a twentieth the network is still the initial one.
        barely_moved: the same below which a higher rate is tried.
        weight_decay: weight decay below which a high rate of shrinking is the learning rate's.
        shrinkage: share of the weights that weight decay takes per step: at a thousandth they are
            halved in 700 steps, against the gradient.
        decay_share: gradient of weight decay as a multiple of that of the loss.
        clipped: factor by which clipping shortens the usual gradient; only an optimizer without
            adaptive steps suffers.
        accumulated: norm of the gradients that a network holds, in those of one batch; half of it
            is the growth of the gradient norm over a run that is along a straight line.
        linear: correlation of the gradient norm with the number of the step that counts as a
            straight line.
        kept: share of steps that begin with the gradients of the step before.
        overfitting: increase of the validation loss from best to last, as a share of the first.
        generalization_gap: difference between the improvements on the data and on held-out data.
        above_chance: standard deviations from which predictions are better than chance; one in 700
            is by chance.
        enough_rows: rows from which it is hardly for want of rows that nothing is learned that
            holds for others.
        influence: share of the largest effect of an input below which it counts as forgotten.
        matters: the same from which an input beyond the window matters.
        carried: share by which the loss falls where the state of the row before is given.
        beyond: share of the gradient beyond the lengths from which padding is read.
        scale: size (root mean square) of an input or target beyond which, or below whose inverse,
            it counts as not scaled; weights are initialised for 1.
        outlier: distance from the median, in robust standard deviations, from which a value is an
            outlier; normal ones end at 6, and those of Student's t with 3 degrees of freedom at 20.
        outlier_share: largest share of the values that are outliers of a distribution, and not a
            part of it; as many times that as they are farther, ten times at most.
        outlier_weight: share of the variance that outliers make from which they are what is
            learned, and all else is too small to count: a tenth is left for the other values.
        duplicate: correlation of two input features that count as duplicates.
        constant: share of the input features that may be constant.
        lost: share of the input features that are constant, or copies, from which what the network
            was to learn from is likely missing.
        imbalance: share of the most frequent class from which a network may ignore the others.
        recall: share of the other classes' rows that are recognised; below, they are ignored.
        poor_recall: the same below which they suffer from being rare, where little was learned.
        one_class: share of predictions of one class at which a network predicts only that.
        leaky: correlation with the target, or accuracy, of a single input feature by itself.
        changed: relative change of an output that counts as a change; rounding is below.
        dropout: probability of dropout beyond which it is tried without.
        small: hidden units below which a larger network is proposed where training stalls.
        plateau: share by which the loss of the last third of a run is below that before; less
            counts as stalled.
        right: share of right tokens after true ones from which those after its own are looked at.
        free_running: factor by which the loss of free running may exceed that with the true past.
    """

    probable: float = 0.5
    proven: float = 0.93
    warned: float = 0.8
    learned: float = 0.02
    clear: float = 4.0
    low_improvement: float = 0.3
    improvement: float = 0.15
    step_improvement: float = 0.05
    good_improvement: float = 0.5
    small_improvement: float = 0.8
    high_improvement: float = 0.9
    helps: float = 0.1
    tried: float = 0.03
    vanished: float = 1e-3
    layer_vanished: float = 0.01
    deep: float = 5.0
    exploded: float = 1e3
    growth: float = 1.02
    spikes: float = 0.02
    gradient_norm: float = 1e3
    correlation: float = 0.25
    identical: float = 1e-3
    dead: float = 0.6
    saturated: float = 0.9
    closed: float = 0.02
    forget_gate: float = 0.2
    oscillation: float = 0.5
    overshoot: float = 1.5
    gain: float = 3.0
    movement: float = 0.05
    barely_moved: float = 1.0
    weight_decay: float = 0.02
    shrinkage: float = 1e-3
    decay_share: float = 1.0
    clipped: float = 20.0
    accumulated: float = 8.0
    linear: float = 0.95
    kept: float = 0.5
    overfitting: float = 0.1
    generalization_gap: float = 0.3
    above_chance: float = 3.0
    enough_rows: float = 48.0
    influence: float = 0.01
    matters: float = 0.1
    carried: float = 0.05
    beyond: float = 0.5
    scale: float = 10.0
    outlier: float = 20.0
    outlier_share: float = 0.01
    outlier_weight: float = 0.9
    duplicate: float = 0.9999
    constant: float = 0.0
    lost: float = 0.5
    imbalance: float = 0.8
    recall: float = 0.1
    poor_recall: float = 0.5
    one_class: float = 0.98
    leaky: float = 0.999
    changed: float = 1e-4
    dropout: float = 0.5
    small: float = 8.0
    plateau: float = 0.05
    right: float = 0.7
    free_running: float = 2.0
