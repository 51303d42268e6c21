"""What the diagnosis of estimators and runs rests on: their data, their settings, what they saw."""

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from sklearn.base import clone
from torch import nn
from torch.nn import functional as F

from ostinato import (
    Forecaster,
    OstinatoError,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    TextGenerator,
    diagnose,
)
from ostinato.insight.causes.common import J
from ostinato.insight.causes.data import (
    class_imbalance,
    inputs_not_scaled,
    labels_unrelated,
    leaky_feature,
    outliers,
)
from ostinato.insight.causes.data import constant_features as constant
from ostinato.insight.causes.data import duplicate_features as duplicate
from ostinato.insight.causes.generalization import nothing_learnt, overfitting
from ostinato.insight.causes.optimization import (
    clipping_too_strong,
    grown_weights,
    rate_too_low,
)
from ostinato.insight.causes.steps import future_read
from ostinato.insight.evidence import Evidence, Features
from ostinato.insight.losses import as_loss
from ostinato.insight.remedies import change_of, tried
from ostinato.insight.trials import Change, Trial, remove_dropout
from ostinato.networks.inputs import WordEncoder
from ostinato.training.evaluation import Sample
from ostinato.training.findings import Judgement
from ostinato.training.free_causes import FREE
from ostinato.training.observations import Observations
from ostinato.training.thresholds import Thresholds

B, T = 64, 20
SMALL = {"hidden_size": 8, "epochs": 2, "patience": 0, "seed": 0}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Net(nn.Module):
    """A recurrent layer and a head, on all steps or the last."""

    def __init__(self, I=3, K=4, steps="last", H=8, **more):
        super().__init__()
        self.rnn = nn.GRU(I, H, batch_first=True, **more)
        self.head, self.steps = nn.Linear(H * (1 + self.rnn.bidirectional), K), steps

    def forward(self, x):
        h = self.rnn(x)[0]
        return self.head(h if self.steps == "all" else h[:, -1])


class Played(Evidence):
    """Evidence of which short runs are set beforehand, by the factor of the rate."""

    runs: dict = {}  # noqa: RUF012

    def trial(self, change=None):
        share = self.runs.get((change or Change()).rate)
        return None if share is None else Trial(share, share, 80, [1.0])


def evidence(net, x, y, loss=F.cross_entropy, kind=Evidence, observed=None, **more):
    given = observed or Observations.of([1.0] * 40, net)
    return kind(net, Sample(x, y), given, loss=as_loss(loss), **more)


def of_estimator(model, X, y):
    return Evidence(model.network_, model.examples(X, y), Observations())


def judged(cause, e, improvement=0.0) -> list:
    judgement: J = Judgement(e, e.observed, e.thresholds, improvement, e.start.rate)
    return list(cause(judgement))


# What follows is read


def cycle(rows=60, steps=16, K=5):
    """Events that mostly follow a cycle."""
    rng = default_rng(0)
    ids = np.zeros((rows, steps + 1), int)
    ids[:, 0] = rng.integers(K, size=rows)
    for t in range(steps):
        jump = rng.integers(K, size=rows)
        ids[:, t + 1] = np.where(rng.random(rows) < 0.7, (ids[:, t] + 1) % K, jump)
    return ids


def test_a_tagger_of_the_next_event_reads_the_future_whatever_the_tags_are_called():
    ids = cycle()
    X = [[f"e{k}" for k in row[:-1]] for row in ids]
    next_one = [[*(f"then {'zyxwv'[k]}" for k in row[1:-1]), "end"] for row in ids]
    for both in (True, False):
        model = SequenceTagger(**SMALL, bidirectional=both).fit(X, next_one)
        found = judged(future_read, of_estimator(model, X, next_one))
        assert [f.issue for f in found] == ["future read"] * both
        told = [r.change for f in found for r in f.in_terms("estimator").remedies]
        assert told == ["bidirectional=False"] * both
    # A tag that depends on the next word, of which several have the same, may be read there.
    looked = [[("ab"[k % 2] if k > 2 else "c") for k in row[1:]] for row in ids]
    model = SequenceTagger(**SMALL).fit(X, looked)
    assert not judged(future_read, of_estimator(model, X, looked))


def test_a_class_that_the_next_number_tells_is_of_the_future():
    series = torch.randn(B, T + 1, 2)
    x, rises = series[:, :-1], (series.diff(dim=1)[..., 0] > 0).long()
    higher = (series[:, 1:, 1] > 0.5).long()
    now = (x[..., 0] > 0).long()
    chance = torch.randint(2, (B, T))
    cases = [(x, rises, True), (x, higher, True), (x, now, False), (x, chance, False)]
    slow = torch.sin(0.001 * torch.arange(T) + 6.28 * torch.rand(B, 1))[..., None].expand(B, T, 2)
    cases.append((slow, (slow[..., 0] > 0).long(), False))  # the next value is like this one
    for x, y, expected in cases:
        for both in (True, False):
            net = Net(2, 2, "all", bidirectional=both)
            found = judged(future_read, evidence(net, x, y, nn.CrossEntropyLoss()))
            assert [f.issue for f in found] == ["future read"] * (expected and both)


# What a run was trained on and what it held out


def test_a_run_is_diagnosed_by_what_it_trained_on_beside_what_it_held_out(tmp_path):
    rng = default_rng(0)
    y = ["a", "b"] * 30
    X = [(label == "a") + 0.1 * rng.normal(size=(5, 2)) for label in y]
    how = {**SMALL, "epochs": 12, "learning_rate": 0.02, "hidden_size": 16}
    model = SequenceClassifier(**how).fit(X, y, out=tmp_path / "run")
    found = diagnose(SequenceClassifier.load(tmp_path / "run"))
    assert found.held_out_improvement > 0.5
    assert found.held_out_improvement != found.improvement
    own = model.samples_of_run(tmp_path / "run" / "data")
    assert own.held_out is not None
    assert [len(s.inputs) for s in (own.few, own.many, own.held_out)] == [32, 48, 12]
    rows = {tuple(row) for row in own.many.inputs.flatten(1).tolist()}
    assert {tuple(row) for row in own.few.inputs.flatten(1).tolist()} < rows
    assert not rows & {tuple(row) for row in own.held_out.inputs.flatten(1).tolist()}
    assert {tuple(np.float32(x).flatten().tolist()) for x in X} >= rows
    in_memory = SequenceClassifier(**how).fit(X, y)
    assert vars(diagnose(in_memory)) | {"flow": 0, "influence": 0, "history": 0} == (
        vars(found) | {"flow": 0, "influence": 0, "history": 0}
    )


def test_a_run_that_held_nothing_out_is_diagnosed_by_what_there_is(tmp_path):
    text = "to be or not to be, that is the question. " * 40
    for fraction in (0.0, 0.2):
        run = tmp_path / str(fraction)
        model = TextGenerator(hidden_size=8, steps=5, window=20, validation_fraction=fraction)
        model.fit(text, out=run)
        own = TextGenerator.load(run).samples_of_run(run / "data")
        assert (own.held_out is None) is (fraction == 0)
        alone = TextGenerator(**model.get_params()).fit(text).samples_
        assert alone is not None
        for name, kept in own._asdict().items():
            other = getattr(alone, name)
            assert (other is None) is (kept is None)
            assert kept is None or torch.equal(other.inputs, kept.inputs), name
    X = [np.ones((4, 1)) * k for k in range(12)]
    one = SequenceRegressor(**SMALL, validation_fraction=0)
    one.fit(X, list(range(12)), out=tmp_path / "alone")
    own = one.samples_of_run(tmp_path / "alone" / "data")
    assert own.held_out is None
    assert len(own.few.inputs) == len(own.many.inputs) == 12


def test_rows_of_a_fit_in_memory_stay_with_it_and_go_into_no_copy_and_no_file(tmp_path):
    series = np.sin(np.arange(80.0))
    model = Forecaster(horizon=2, epochs=1, ensemble_size=1, hidden_size=4).fit(series)
    assert model.samples_ is not None
    assert diagnose(model).loss == diagnose(model, (series,)).loss
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), clone(model)):
        assert other.samples_ is None
    model.save(tmp_path / "model")
    assert Forecaster.load(tmp_path / "model").samples_ is None
    with pytest.raises(OstinatoError, match="there are no data"):
        diagnose(copy.deepcopy(model))
    model.fit(series, out=tmp_path / "run")  # whose folder has them
    assert model.samples_ is None
    assert math.isfinite(diagnose(model).loss)


def test_a_few_held_out_rows_do_not_show_that_anything_holds_for_others():
    y = torch.arange(60) % 2
    x = (2.0 * y - 1)[:, None, None] * torch.ones(60, 5, 1) + 0.1 * torch.randn(60, 5, 1)
    net = Net(1, 2)
    optimizer, losses = torch.optim.Adam(net.parameters(), 0.02), []
    for _ in range(60):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    run = {"loss": nn.CrossEntropyLoss(), "history": losses, "optimizer": optimizer}
    assert diagnose(net, (x, y), **run, held_out=(x[:40], y[:40])).healthy
    few = diagnose(net, (x, y), **run, held_out=(x[:4], y[:4]))
    assert few.verdict == "cannot tell"
    assert any("4 rows do not show" in need for need in few.needs)


# Data


def test_outliers_that_make_the_variance_are_what_is_wrong():
    rng = default_rng(0)
    X = [rng.normal(size=(6, 2)) for _ in range(120)]
    y = [float(x.mean()) for x in X]
    model = SequenceRegressor(**SMALL)
    bad = [*y[:-3], 1e5, -2e5, 1e5]
    e = of_estimator(model.fit(X, bad), X[-30:], bad[-30:])
    e.more = model.examples(X, bad, count=256)
    (finding,) = judged(outliers, e)
    assert finding.probability > Thresholds().proven
    assert finding.values["weight"] > 0.999
    assert not judged(outliers, of_estimator(model.fit(X, y), X, y))


@pytest.mark.parametrize(("far", "weight"), [(0.0, 0.0), (1e3, 1.0)])
def test_the_weight_of_outliers_is_their_share_of_the_squared_distances(far, weight):
    values = torch.linspace(-1, 1, 99)[:, None].double()
    values[0] = -far if far else -1.0
    features = Features.of(values, 20.0)
    distances = (values - values.median()).square()
    share = distances[0] / distances.sum() if far else 0.0
    assert features.weight[0] == pytest.approx(float(share))
    assert features.weight[0] == pytest.approx(weight, abs=1e-4)


@pytest.mark.parametrize(("cause", "spoil"), [
    (constant, lambda x: x[..., 0].fill_(2.0)),
    (duplicate, lambda x: x[..., 0].copy_(x[..., 1])),
])  # fmt: skip
def test_half_of_the_features_lost_is_what_is_wrong(cause, spoil):
    for F_, certain in ((2, True), (6, False)):
        x, y = torch.randn(B, T, F_), torch.arange(B) % 4
        spoil(x)
        (finding,) = judged(cause, evidence(Net(F_), x, y))
        assert (finding.probability > Thresholds().proven) is certain
        (mild,) = judged(cause, evidence(Net(F_), x, y), improvement=0.95)
        assert mild.probability < 0.5


def test_a_constant_far_from_zero_is_no_matter_of_scale():
    x, y = torch.randn(B, T, 3), torch.arange(B) % 4
    x[..., 0] = 500.0
    assert not judged(inputs_not_scaled, evidence(Net(), x, y))
    assert judged(constant, evidence(Net(), x, y))
    x[0, 0, 0] = 499.0
    assert judged(inputs_not_scaled, evidence(Net(), x, y))
    assert not judged(inputs_not_scaled, evidence(Net(1), torch.full((B, T, 1), 500.0), y))


def test_a_constant_of_padded_rows_that_is_the_target_leaks():
    x, lengths = torch.randn(B, T, 2), torch.randint(4, T, (B,))
    y = torch.randn(B, 1)
    x[..., 1] = y
    x[torch.arange(T)[None] >= lengths[:, None]] = 0
    e = evidence(Net(2, 1), x, y + 1e-3 * torch.randn(B, 1), F.mse_loss)
    e.sample = e.sample._replace(lengths=lengths)
    (finding,) = judged(leaky_feature, e)
    assert finding.values["feature"] == 1


@pytest.mark.parametrize("batch_first", [True, False])
def test_padding_is_left_out_of_what_enters_a_layer(batch_first):
    x, lengths = 100 + torch.randn(B, T, 2), torch.randint(4, T, (B,))
    x[torch.arange(T)[None] >= lengths[:, None]] = 0

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(2, 4, batch_first=batch_first)

        def forward(self, x):
            x = x - 100
            return self.rnn(x if batch_first else x.transpose(0, 1))[1][0]

    e = evidence(Scaled(), x, torch.arange(B) % 4)
    e.sample = e.sample._replace(lengths=lengths)
    assert np.abs(e.entering.mean).max() < 0.3
    assert np.abs(e.entering.std - 1).max() < 0.2


def test_rows_learned_by_heart_before_the_best_weights_were_restored_are_seen():
    x, y = torch.randn(B, T, 3), torch.randint(4, (B,))
    apart = Sample(torch.randn(B, T, 3), torch.randint(4, (B,)))
    for losses, expected in (([1.4] * 20 + [0.3] * 40, True), ([1.4] * 60, False)):
        e = evidence(Net(), x, y, held_out=apart, observed=Observations.of(losses))
        e.may_train = False
        found = judged(labels_unrelated, e)
        assert [f.issue for f in found] == ["labels unrelated to inputs"] * expected


def test_rare_rows_learned_by_heart_are_not_recognised_among_held_out_ones():
    x, y = torch.randn(100, 5, 2), (torch.arange(100) % 20 == 0).long()
    net = Net(2, 2)

    def forward(given):  # knows the rows that it was trained on
        rare = (given[:, None] == x[y == 1]).flatten(2).all(-1).any(1)
        return torch.stack([~rare, rare], 1).float() * 5 + 0 * net.head(net.rnn(given)[0][:, -1])

    net.forward = forward
    e = evidence(net, x, y, observed=Observations())
    assert not judged(class_imbalance, e)
    e = evidence(net, x, y, observed=Observations(), held_out=Sample(torch.randn(100, 5, 2), y))
    (finding,) = judged(class_imbalance, e)
    assert finding.values["recall"] == 0


@pytest.mark.parametrize(("recognised", "improvement", "expected"), [
    (0, 0.9, 0.66), (1, 0.3, 0.66), (2, 0.3, 0.55), (5, 0.3, 0.55), (6, 0.3, None), (5, 0.6, None),
])  # fmt: skip
def test_rare_classes_that_are_hardly_recognised(recognised, improvement, expected):
    y = (torch.arange(100) % 10 == 0).long()
    x = torch.zeros(100, 5, 1)
    x[torch.flatten(y.nonzero())[:recognised]] = 1.0
    x[torch.flatten((1 - y).nonzero())[:3]] = 1.0  # so that the rare class is predicted often
    net = Net(1, 2)
    net.forward = lambda given: torch.stack([0.5 - given[:, 0, 0], given[:, 0, 0] - 0.5], 1)
    found = judged(class_imbalance, evidence(net, x, y, observed=Observations()), improvement)
    assert [f.probability for f in found] == [expected] * (expected is not None)
    for finding in found:
        assert finding.values["recall"] == pytest.approx(recognised / 10)
        assert ("always the same" in finding.message) is (recognised <= 1)
    keys = (torch.arange(400).view(100, 4) % 10 == 0).float()  # most notes are silent
    net.forward = lambda given: (keys * (torch.arange(100) < 10 * recognised)[:, None] - 0.5) * 9
    e = evidence(net, x, keys, F.binary_cross_entropy_with_logits, observed=Observations())
    assert bool(judged(class_imbalance, e, improvement)) is (recognised <= 1)


def test_an_estimator_is_judged_by_as_many_held_out_rows_as_of_its_own():
    X = [np.full((3, 1), float(k)) for k in range(300)]
    y = ["a" if k % 2 else "b" for k in range(300)]
    model = SequenceClassifier(**SMALL).fit(X[:60], y[:60])
    for rows in (40, 300):
        found = diagnose(model, (X[:60], y[:60]), held_out=(X[:rows], y[:rows]))
        one = Evidence(
            model.network_, model.examples(X[:rows], y[:rows], count=256), Observations()
        )
        share = found.held_out_improvement
        assert share == pytest.approx(1 - one.loss_now / one.constant)
        assert len(one.sample.inputs) == min(rows, 256)


@pytest.mark.parametrize(("wrong", "expected"), [(4, 0.45), (30, 0.8)])
def test_a_few_held_out_rows_that_are_sure_and_wrong_are_not_yet_overfitting(wrong, expected):
    y = torch.arange(100) % 4
    right = 20 * F.one_hot(y, 4).float()
    apart = right.clone()
    apart[:wrong] = right[:wrong].roll(1, 1)
    net = Net(4)
    net.forward = lambda given: given[:, 0]
    given = [Sample(scores[:, None].repeat(1, T, 1), y) for scores in (right, apart)]
    e = evidence(net, given[0].inputs, y, held_out=given[1], observed=Observations())
    (finding,) = judged(overfitting, e)
    assert finding.probability == expected


def test_inputs_are_looked_at_in_all_rows_that_are_known():
    x, y = torch.randn(40, T, 2), torch.arange(40) % 4
    x[:10, :, 0] = 1.5  # the same in the first rows only
    x[30, 3, 1], lengths = 1e6, torch.full((40,), T)
    x[20, 5:], lengths[20] = 1e9, 5  # padding
    e = evidence(Net(2), x[:10], y[:10])
    assert judged(constant, e)
    assert not judged(outliers, e)
    e = evidence(Net(2), x[:10], y[:10], more=Sample(x, y, lengths))
    assert not judged(constant, e)
    (finding,) = judged(outliers, e)
    assert finding.values["span"] < 1e8


@pytest.mark.parametrize(("rows", "own"), [(200, 8), (200, 63), (200, 64), (40, 19), (40, 20)])
def test_short_runs_are_judged_by_held_out_rows_where_there_are_enough(rows, own):
    x, apart = torch.arange(rows * 1.0)[:, None, None], -torch.arange(1.0, own + 1)[:, None, None]
    y = torch.arange(rows) % 4
    e = evidence(Net(1), x, y, held_out=Sample(apart, torch.arange(own) % 4))
    training, judged_by = (
        set(s.inputs.flatten().tolist()) for s in (e.start.training, e.start.judged)
    )
    if own >= 64 or own >= rows / 2:
        assert (len(training), len(judged_by)) == (rows, own)
        assert max(judged_by) < 0
    else:
        assert (len(training), len(judged_by)) == (rows / 2, rows / 2)
        assert not training & judged_by


@pytest.mark.parametrize("scale", [0.02, 0.3, 0.4, 0.7])
def test_a_loss_below_that_of_a_constant_is_not_nothing(scale):
    y = torch.arange(16) % 2
    net = Net(1, 2)
    net.forward = lambda given: scale * F.one_hot(y[: len(given)], 2).float()
    e = evidence(net, (1.0 * y)[:, None, None].repeat(1, 3, 1), y)
    e.shuffled = [0.1, 0.9] * 4  # as of few kinds of rows, some of which get their own
    assert not e.has_learned
    assert bool(judged(nothing_learnt, e)) is (e.learned <= 0.3)
    assert (scale == 0.7) is (e.learned > 0.3)


def test_what_a_network_can_learn_by_heart_is_seen_without_its_dropout():
    x, y = torch.randn(B, T, 3), torch.randint(4, (B,))
    asked = list[Change]()

    class Asked(Evidence):
        def trial(self, change=None):
            asked.append(change)
            return Trial(-0.5, 0.9 if change.rows and not change.dropout else 0.0, 80, [1.0], 0.0)

    e = evidence(Net(), x, y, kind=Asked, held_out=Sample(x, torch.randint(4, (B,))))
    e.improvement = e.held_out_improvement = e.learned = 0.0
    (finding,) = judged(labels_unrelated, e)
    assert "16 rows by heart" in finding.message
    assert {(c.rows, c.dropout) for c in asked} == {(0, True), (16, False)}
    words = WordEncoder(10, 4, 5, word_dropout=0.9)
    remove_dropout(words)
    assert words.word_dropout == 0


# Settings


def test_clipping_of_single_elements_is_clipping():
    X = [np.full((6, 1), k % 2.0) + 0.1 * default_rng(k).normal(size=(6, 1)) for k in range(80)]
    y = ["low" if k % 2 == 0 else "high" for k in range(80)]
    how = {**SMALL, "optimizer": "sgd", "learning_rate": 0.5, "epochs": 8, "clip_norm": 0.0}
    model = SequenceClassifier(**how, clip_value=1e-6).fit(X, y)
    e = of_estimator(model, X, y)
    e.settings = model.get_params()
    finding = judged(clipping_too_strong, e)[0]
    assert finding.values["factor"] > 1000
    assert finding.probability > 0.8
    (remedy,) = finding.remedies
    assert remedy._replace(terms="estimator").change == "clip_value=0"
    assert remedy._replace(terms="command").change == "--clip-value 0"
    assert change_of(remedy, finding.issue, e) == Change(clip=0.0)
    assert ", helped: " in tried(finding, e).remedies[0].gain
    e = of_estimator(SequenceClassifier(**how, clip_value=5.0).fit(X, y), X, y)
    e.settings = model.get_params() | {"clip_value": 5.0}
    assert not judged(clipping_too_strong, e)


def test_short_runs_clip_as_the_estimator_does():
    x, y = torch.randn(B, 4, 1), torch.arange(B) % 2
    moved = []
    for value, change in ((0.0, Change()), (1e-9, Change()), (1e-9, Change(clip=0.0))):
        settings = {"clip_value": value, "optimizer": "sgd", "learning_rate": 1.0}
        trial = evidence(Net(1, 2), x, y, settings=settings).trial(change)
        moved.append(max(trial.losses) - min(trial.losses))
    assert moved[2] == moved[0] > 10 * moved[1]


def test_long_steps_are_told_of_a_network_that_learned_all_the_same():
    x, y = torch.randn(B, T, 3), torch.arange(B) % 4
    for size, runs, expected in (
        (5.0, {1.0: 0.2, 0.1: 0.9, 0.01: 0.1}, True),
        (0.3, {1.0: 0.2, 0.1: 0.9, 0.01: 0.1}, False),  # weights are of the usual size
        (5.0, {1.0: 0.2, 0.1: 0.6, 0.01: 0.1}, False),  # no better than it is
    ):
        net = Net()
        nn.init.normal_(net.rnn.weight_hh_l0, std=size)
        e = evidence(net, x, y, kind=Played)
        e.runs = runs
        found = judged(grown_weights, e, improvement=0.6)
        assert [f.issue for f in found] == ["learning rate too high"] * expected
        assert not judged(grown_weights, e, improvement=0.95)


@pytest.mark.parametrize(("own", "expected"), [(0.1, True), (0.9, False)])
def test_weights_that_grew_while_rows_were_learned_by_heart_are_no_sign_of_long_steps(
    own, expected
):
    net = Net()
    nn.init.normal_(net.rnn.weight_hh_l0, std=5.0)
    e = evidence(net, torch.randn(B, T, 3), torch.arange(B) % 4, kind=Played)
    e.improvement = own
    found = judged(grown_weights, e)
    assert [f.issue for f in found] == ["learning rate too high"] * expected


@pytest.mark.parametrize(("constant", "expected"), [(math.nan, True), (0.5, True), (1.0, False)])
def test_first_batches_that_were_easy_are_no_rise_of_the_loss(constant, expected):
    losses = [0.6] * 4 + [1.2] * 40
    e = evidence(Net(), torch.randn(B, T, 3), torch.arange(B) % 4)
    observed = replace(Observations.of(losses), constant=constant)
    found = list(
        FREE["learning rate too high"].judge(Judgement(e, observed, Thresholds(), 0.0, 0.01))
    )
    assert [f.issue for f in found] == ["learning rate too high"] * expected


@pytest.mark.parametrize(("improvement", "expected"), [(0.2, 0.8), (0.6, 0.4), (math.nan, 0.8)])
def test_a_validation_loss_that_rose_from_low_is_but_a_candidate(improvement, expected):
    history = [{"step": k, "loss": 1.0 - 0.009 * k} for k in range(1, 101)]
    history += [
        {"step": 10 * k, "best": 1, "validation_loss": abs(k - 3) / 10 + 0.5} for k in range(1, 11)
    ]
    e = evidence(Net(), torch.randn(B, T, 3), torch.arange(B) % 4)
    judgement = Judgement(e, Observations.of(history), Thresholds(), improvement, 0.01)
    (finding,) = FREE["overfitting"].judge(judgement)
    assert finding.probability == expected


def test_a_rate_that_fell_too_early_is_told_of_a_network_that_learned_all_the_same():
    x, y = torch.randn(B, T, 3), torch.arange(B) % 4
    rates = [0.01] * 10 + [1e-5] * 90
    history = [{"loss": 1.0, "learning_rate": rate} for rate in rates]
    for share, improvement, expected in ((0.9, 0.7, True), (0.75, 0.7, False), (0.99, 0.95, False)):
        e = evidence(Net(), x, y, kind=Played, observed=Observations.of(history))
        e.runs = dict.fromkeys((0.01 / e.start.rate, 1.0, 10.0, 100.0), share)
        found = judged(rate_too_low, e, improvement=improvement)
        assert [f.issue for f in found[:1]] == ["learning rate too low"] * expected
    steady = replace(e.observed, rates=[0.01] * 100)
    e = evidence(Net(), x, y, kind=Played, observed=steady)
    e.runs = dict.fromkeys((1.0, 10.0, 100.0), 0.95)
    assert not judged(rate_too_low, e, improvement=0.7)


def test_outliers_of_the_inputs_count_by_how_far_they_are():
    for count, value, expected in ((8, 400.0, True), (8, 60.0, False)):  # of 128 values
        x = torch.randn(32, 4, 1)
        x.view(-1)[torch.randperm(128)[:count]] = value
        e = evidence(Net(1), x, torch.arange(32) % 4)
        assert bool(judged(outliers, e)) is expected


def test_what_an_estimator_refuses_is_refused():
    with pytest.raises(OstinatoError):
        SequenceRegressor(**SMALL).fit([np.ones((3, 1))] * 12, [math.nan] * 12)
