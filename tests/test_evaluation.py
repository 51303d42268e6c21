"""Training, evaluation and prediction of any network, over batches of any size."""

import numpy as np
import pytest
import torch
from learning import Witness, same, weights
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from ostinato.data.batches import ContiguousBatches, SequenceBatches
from ostinato.data.ragged import Examples, Ragged
from ostinato.networks.arrangements import ManyToMany, ManyToOne, recurrent_layers
from ostinato.networks.outputs import Output
from ostinato.tasks.generation import NextTokens
from ostinato.tasks.tagging import entities
from ostinato.tasks.targets import Classes, Numbers, StepLabels
from ostinato.training.evaluation import eval_mode, evaluate, measure, predict
from ostinato.training.health import Monitor
from ostinato.training.loop import Trainer
from ostinato.training.settings import TrainingSettings

V = 5
LENGTHS = (4, 2, 7, 3, 5, 1, 6)


def examples(by_step=False):
    random = np.random.default_rng(2)
    rows = [random.normal(size=(n, 3)).astype("f4") for n in LENGTHS]
    if by_step:
        return Examples(Ragged.of(rows), Ragged.of(random.integers(0, V, n) for n in LENGTHS))
    return Examples(Ragged.of(rows), random.integers(0, V, len(LENGTHS)))


def network(kind=ManyToOne, dropout=0.3):
    torch.manual_seed(0)
    output = Output(6, V, dropout=dropout)
    return kind(nn.Identity(), recurrent_layers("lstm", 3, 6, dropout=0.0), output).double()


def batches(by_step=False, size=3):
    def double(batch):
        return batch._replace(inputs=batch.inputs.double())

    return SequenceBatches(examples(by_step), size, transform=double)


@pytest.mark.parametrize("by_step", [False, True])
def test_measures_do_not_depend_on_the_batch_size(by_step):
    net = network(ManyToMany if by_step else ManyToOne)
    targets = (StepLabels if by_step else Classes)(np.arange(V))
    whole = evaluate(net, targets, batches(by_step, len(LENGTHS)))
    # By hand: every sequence alone.
    losses, counts = [], []
    net.eval()
    for row, target in zip(*examples(by_step)[:2], strict=True):
        x = torch.from_numpy(np.array(row)).double()[None]
        truth = torch.from_numpy(np.atleast_1d(target))
        losses.append(net.loss(x, truth[None] if by_step else truth)[0].item())
        counts.append(len(row) if by_step else 1)
    assert whole["loss"] == pytest.approx(np.average(losses, weights=counts), rel=1e-12)
    for size in (1, 2, 3):
        found = evaluate(net, targets, batches(by_step, size))
        assert found == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_judge_of_entities_rests_on_the_true_ones(size):
    """Other labels are judged step by step."""
    names = np.array(["B-A", "B-B", "I-A", "I-B", "O"])
    known = batches(by_step=True, size=size)
    spelled = [names[row].tolist() for row in known.examples.targets]
    expected = sum(len(list(entities(row))) for row in spelled)
    assert 0 < expected < sum(LENGTHS)
    assert measure(network(ManyToMany), StepLabels(names), known)[1] == expected
    assert measure(network(ManyToMany), StepLabels(np.arange(V)), known)[1] == sum(LENGTHS)


def test_the_state_is_carried_through_an_evaluation():
    torch.manual_seed(0)
    recurrent = recurrent_layers("gru", 4, 6)
    net = ManyToMany(nn.Embedding(V, 4), recurrent, Output(6, V)).double().eval()
    tokens = np.random.default_rng(0).integers(0, V, 61)
    ids = torch.from_numpy(tokens)[None]
    expected = net.loss(ids[:, :-1], ids[:, 1:])[0].item()
    objective = NextTokens(None, tokens_per_character=2.0)
    for window in (60, 7, 1):
        found = evaluate(net, objective, ContiguousBatches(tokens, 1, window))
        assert found == {"loss": pytest.approx(expected, rel=1e-12)}
    assert objective.units(np.log(2))["bits_per_character"] == pytest.approx(2.0)


def test_predictions_come_in_the_order_of_the_sequences():
    net = network()
    expected = []
    for row in examples().inputs:
        x = torch.from_numpy(np.array(row)).double()[None]
        expected.append(net.eval()(x)[0][0].tolist())
    for size in (1, 2, 7):
        found = predict(net.train(), batches(size=size), lambda y, batch: y.tolist())
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert net.training


def test_eval_mode_leaves_every_module_as_it_was():
    net = network().train()
    net.output.eval()
    before = [module.training for module in net.modules()]
    with pytest.raises(ValueError), eval_mode(net):
        assert not any(module.training for module in net.modules())
        raise ValueError
    assert [module.training for module in net.modules()] == before


def test_fit_trains_in_place_and_reports_what_it_kept():
    net, witness, kept = network(dropout=0.0), Witness(), []
    settings = TrainingSettings(steps=200, evaluations=6, learning_rate=0.03, warmup_steps=0)
    data = batches()

    def on_best(result):
        kept.append((result.best_step, weights(net)))

    classes = Classes(np.arange(V))
    first = evaluate(net, classes, data)["loss"]
    trainer = Trainer(net, data, classes, settings, [witness], validation=data, on_best=on_best)
    result = trainer.run()
    assert result.ended == "budget" and result.steps == 200
    assert result.best_loss < 0.2 * first
    assert evaluate(net, classes, data)["loss"] == pytest.approx(result.best_loss)
    assert kept[-1][0] == result.best_step and same(kept[-1][1], weights(net))
    assert [e["accuracy"] for e in witness.evaluations][-1] > 0.9


def test_fit_resumed_is_fit_uninterrupted(tmp_path):
    def run(folder, stop_at=None):
        torch.manual_seed(1)
        net, witness = network(), Witness()
        if stop_at is not None:
            witness = Witness({stop_at: lambda: setattr(witness.run, "_interrupted", True)})
        settings = TrainingSettings(steps=12, evaluations=3, warmup_steps=0)
        found = []
        for resume in (False, True):
            data = batches()
            classes = Classes(np.arange(V))
            trainer = Trainer(
                net, data, classes, settings, [witness], validation=data, folder=folder
            )
            found.append(trainer.run(resume=resume))
        return found, weights(net)

    (whole, _), expected = run(tmp_path / "whole")
    (stopped, resumed), found = run(tmp_path / "stopped", stop_at=5)
    assert (stopped.ended, stopped.steps) == ("interrupt", 5)
    assert (resumed.ended, resumed.best_loss) == ("budget", whole.best_loss)
    assert same(found, expected)


def test_a_warning_is_given_when_the_next_evaluation_is_no_better_and_then_only_once():
    class Accuses(Monitor):
        def observe(self, step, loss, norm):
            new = [] if "cause" in self._warned else [f"a cause at {step}"]
            self._warned.add("cause")
            return new

    def warnings(losses, validate=True):
        """What is said where each evaluation, every second step, finds the next of some losses."""
        net, witness, found = network(), Witness(), iter(losses)

        class Judged(Classes):
            def summarize(self, means):
                return {"loss": next(found), "accuracy": 0.5}

        settings = TrainingSettings(steps=2 * len(losses), evaluations=len(losses), patience=0)
        validation = batches() if validate else None
        trainer = Trainer(
            net, batches(), Judged(np.arange(V)), settings, [witness], validation=validation
        )
        trainer.monitor = Accuses()
        trainer.run()
        return witness.messages

    assert not warnings([3.0, 2.0, 1.0]), "each time taken back"
    assert len(warnings([3.0, 4.0, 5.0, 6.0])) == 1
    # Once given it stands, though later evaluations are better.
    assert len(warnings([3.0, 4.0, 2.0, 5.0, 1.0, 6.0])) == 1
    assert len(warnings([3.0] * 4, validate=False)) == 1


def validation_metrics(targets, values, size):
    """What a network of random scores has in batches of a size, and its scores."""
    rows = [
        np.random.default_rng(i).normal(size=(n, 3)).astype("f4") for i, n in enumerate(LENGTHS)
    ]
    torch.manual_seed(4)
    output = targets.head(6, 0.0)
    net = ManyToOne(nn.Identity(), recurrent_layers("gru", 3, 6, dropout=0.0), output).eval()
    data = SequenceBatches(Examples(Ragged.of(rows), values), size)
    scores = np.stack(predict(net, data, lambda y, batch: y.numpy()))
    return evaluate(net, targets, data), scores


@pytest.mark.parametrize("size", [1, 3, 7])
def test_f1_of_several_labels_is_that_of_scikit_learn(size):
    truth = np.random.default_rng(1).integers(0, 2, (len(LENGTHS), 4)).astype("f4")
    targets = Classes(np.array(list("abcd")), multilabel=True)
    found, scores = validation_metrics(targets, truth, size)
    assert found.keys() == {"loss", "accuracy", "micro_f1"}
    assert found[targets.judge] == pytest.approx(f1_score(truth, scores > 0, average="micro"))
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, scores > 0))
    assert targets.summarize(dict.fromkeys(("loss", "right", "guess", "true"), 0.0)) == {
        "loss": 0.0,
        "micro_f1": 0.0,
    }


@pytest.mark.parametrize("size", [1, 3, 7])
def test_errors_of_numbers_are_in_the_scale_of_the_data(size):
    mean, scale = np.array([5.0, -1.0]), np.array([100.0, 0.1])
    truth = np.random.default_rng(1).normal(size=(len(LENGTHS), 2)).astype("f4")
    found, scores = validation_metrics(Numbers(mean, scale, False), truth, size)
    errors = (scores - truth) * scale
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_f1_of_entities_is_that_of_the_evaluation(size):
    names = np.array(["B-A", "B-B", "I-A", "I-B", "O"])
    targets, random = StepLabels(names), np.random.default_rng(3)
    truth = [random.integers(0, 5, n) for n in LENGTHS]
    rows = [random.normal(size=(n, 3)).astype("f4") for n in LENGTHS]
    torch.manual_seed(4)
    net = ManyToMany(nn.Identity(), recurrent_layers("gru", 3, 6), targets.head(6, 0.0)).eval()
    with torch.no_grad():
        guess = [net(torch.from_numpy(x)[None])[0][0].argmax(-1).numpy() for x in rows]
    spans = [
        {(i, *span) for i, row in enumerate(some) for span in entities(names[row].tolist())}
        for some in (truth, guess)
    ]
    expected = 2 * len(spans[0] & spans[1]) / (len(spans[0]) + len(spans[1]))
    data = SequenceBatches(Examples(Ragged.of(rows), Ragged.of(truth)), size)
    found = evaluate(net, targets, data)
    assert found.keys() == {"loss", "accuracy", "entity_f1"} and targets.judge == "entity_f1"
    assert found["entity_f1"] == pytest.approx(expected) and expected > 0
