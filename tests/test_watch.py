"""A watched training loop is the same; of each fault it is warned once; no hook stays."""

import copy
import importlib.util
import math
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import ostinato
from ostinato.errors import MissingExtra, OstinatoError
from ostinato.training.free_causes import free_checks
from ostinato.training.observations import Observations
from ostinato.training.watch import WatchWarning, watch

LIGHTNING = importlib.util.find_spec("lightning") or importlib.util.find_spec("pytorch_lightning")


class Model(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.rnn = nn.GRU(3, 16, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.dropout(self.rnn(x)[0][:, -1]))


def batch(step, size=16):
    x = torch.randn(size, 8, 3, generator=torch.Generator().manual_seed(step))
    return x, x[:, -2:, 0].sum(1, keepdim=True)


def adam(model, lr=0.01):
    return torch.optim.Adam(model.parameters(), lr=lr)


class Loop:
    """A usual loop; a method for each part of it, to be replaced by a faulty one."""

    steps = 60

    def __init__(self, **changes):
        torch.manual_seed(0)
        self.model = Model()
        self.__dict__.update(changes)
        made = self.make(self.model)
        self.optimizers = made if isinstance(made, list) else [made]

    make = staticmethod(adam)

    def loss(self, step):
        x, y = batch(step)
        return mse_loss(self.model(x), y)

    def zero(self, step):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def backward(self, loss):
        loss.backward()

    def clip(self, watched):
        pass

    def update(self, step):
        for optimizer in self.optimizers:
            optimizer.step()

    def run(self, watched=None):
        for step in range(self.steps):
            self.zero(step)
            loss = self.loss(step)
            if watched is not None:
                watched.loss(loss)
            self.backward(loss)
            self.clip(watched)
            self.update(step)
        return self.model


def watched(loop, **options):
    """Run a loop in a watch; return it and its warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with ostinato.watch(loop.model, *loop.optimizers, **options) as found:
            loop.run(found)
    return found, [each for each in said if each.category is WatchWarning]


def hooks_of(loop):
    return [
        (
            dict(optimizer._optimizer_step_pre_hooks),
            dict(optimizer._optimizer_step_post_hooks),
            [dict(p._backward_hooks or {}) for p in loop.model.parameters()],
            dict(loop.model._forward_hooks),
        )
        for optimizer in loop.optimizers
    ]


# Healthy loops


def lbfgs(model):
    return torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)


def with_closure(self, step):
    def closure():
        self.optimizers[0].zero_grad()
        loss = Loop.loss(self, step)
        loss.backward()
        return loss

    self.optimizers[0].step(closure)


def in_parts(self, loss):
    """Four backward passes a step."""
    for _ in range(4):
        (mse_loss(self.model(torch.randn(4, 8, 3)), torch.zeros(4, 1)) / 4).backward()


def zero_every(k):
    return lambda self, step: step % k or Loop.zero(self, step)


def in_place(self, step):
    self.optimizers[0].zero_grad(set_to_none=False)


def with_scaler(self, step):
    self.optimizers[0].step()


def two(model):
    groups = [{"params": model.rnn.parameters(), "lr": 0.01}, {"params": model.head.bias}]
    return [torch.optim.Adam(groups), torch.optim.SGD([model.head.weight], lr=0.05)]


HEALTHY = {
    "usual": {},
    "closure": {
        "make": lbfgs,
        "steps": 20,
        "zero": lambda s, step: None,
        "backward": lambda s, loss: None,
        "update": with_closure,
    },
    "parts": {"backward": in_parts},
    "zeroed every 4 steps": {"zero": zero_every(4)},
    "zeroed in place": {"zero": in_place},
    "two optimizers and groups": {"make": two},
    "frozen": {
        "make": lambda m: (m.rnn.requires_grad_(False), adam(m))[1],
    },
}


def healthy(name):
    changes = dict(HEALTHY[name])
    loop = Loop()
    methods = {
        k: v.__get__(loop) if k in ("zero", "backward", "update", "loss", "clip") else v
        for k, v in changes.items()
    }
    loop.__init__(**methods)
    return loop


@pytest.mark.parametrize("name", HEALTHY)
def test_a_sound_loop_has_no_warning_and_the_same_bits(name):
    alone = healthy(name).run().state_dict()
    loop = healthy(name)
    before = hooks_of(loop)
    found, said = watched(loop)
    assert [str(each.message) for each in said] == []
    assert found.findings == []
    assert found.step == loop.steps
    for key, weight in loop.model.state_dict().items():
        assert torch.equal(weight, alone[key]), key
    assert hooks_of(loop) == before


def test_the_records_are_those_of_a_loop_by_hand():
    loop, wanted = Loop(), []
    for step in range(loop.steps):
        loss = loop.loss(step)
        loop.zero(step)
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in loop.model.parameters()))
        wanted.append((step + 1, loss.item(), norm, 0.01))
        loop.update(step)
    found, _ = watched(Loop(), share=1.0)
    names = ("step", "loss", "gradient_norm", "learning_rate")
    records = [[r[name] for name in names] for r in found.history if "loss" in r]
    assert records == [pytest.approx(each, rel=1e-5) for each in wanted]
    observed = found.observed()
    assert observed.losses == [r[1] for r in records] and observed.norms == [r[2] for r in records]
    assert 1e-4 < observed.update < 0.3 and observed.kept == 0


@pytest.mark.parametrize("late", [False, True])
def test_the_loss_may_be_told_before_a_step_or_after_it(late):
    loop = Loop(steps=5)
    with watch(loop.model, *loop.optimizers) as found:
        for step in range(loop.steps):
            loop.zero(step)
            loss = loop.loss(step)
            if not late:
                assert found.loss(loss) is loss
            loss.backward()
            loop.update(step)
            if late:
                found.loss(loss.item())
                found.loss(loss.item() + 2)  # the mean of both
    wanted = [float(r["loss"]) for r in found.history if "loss" in r]
    again = Loop(steps=5)
    losses = [loss.item() + late for loss in _losses(again)]
    assert wanted == pytest.approx(losses, rel=1e-6)


def _losses(loop):
    for step in range(loop.steps):
        loop.zero(step)
        loss = loop.loss(step)
        loss.backward()
        loop.update(step)
        yield loss


def test_watches_nest_and_hooks_go_with_an_exception():
    loop = Loop(steps=10)
    with watch(loop.model, *loop.optimizers) as outer:
        before = hooks_of(loop)
        with pytest.raises(KeyError), watch(loop.model.head, *loop.optimizers) as inner:
            loop.run(inner)
            raise KeyError
        assert hooks_of(loop) == before
        loop.run(outer)
    assert (inner.step, outer.step) == (10, 20)
    assert not any(any(each[:2]) for each in hooks_of(loop))
    assert all(not any(each[2]) for each in hooks_of(loop))


def test_two_networks_that_train_against_each_other_are_sound():
    """The critic has gradients of the generator's step until its own begins."""
    torch.manual_seed(0)
    generator, critic = nn.Linear(4, 3), nn.Linear(3, 1)
    ours, theirs = adam(generator), adam(critic)
    with watch(generator, ours) as first, watch(critic, theirs) as second:
        for step in range(40):
            made, real = generator(torch.randn(16, 4)), batch(step)[0][:, 0]
            theirs.zero_grad()
            loss = (critic(made.detach()) - critic(real)).tanh().mean()
            second.loss(loss).backward()
            theirs.step()
            ours.zero_grad()
            first.loss(-critic(made).tanh().mean()).backward()
            ours.step()
    assert first.findings == second.findings == []
    assert first.observed().kept == second.observed().kept == 0


def test_with_a_share_of_nothing_few_steps_are_measured():
    found, _ = watched(Loop(), share=0.0)
    assert [r["step"] for r in found.history if "gradient_norm" in r] == [1, 2, 3, 20, 40, 60]
    assert len([r for r in found.history if "loss" in r]) == 60


# Faults, each named first, and once


def never(*args):
    pass


def frozen_twin(model):
    return adam(copy.deepcopy(model))


def cut(self, step):
    x, y = batch(step)
    return mse_loss(self.model.head(self.model.rnn(x)[0][:, -1].detach()), y)


def one_step(self, step):
    """Every call sees one step from a state of zeros."""
    x, y = batch(step)
    return mse_loss(self.model(x[:, -1:]), y)


FAULTS = {
    "not in the optimizer": (
        {"make": lambda m: adam(m.head)},
        "parameters not in the optimizer",
        "rnn.weight_ih_l0",
    ),
    "another model": ({"make": frozen_twin}, "parameters not in the optimizer", "6 of 6"),
    "no backward": ({"backward": never}, "no gradient", "no parameter had a gradient"),
    "cut": ({"loss": cut}, "no gradient", "rnn.weight_ih_l0"),
    "one step": ({"loss": one_step}, "no gradient", "rnn.weight_hh_l0"),
    "never zeroed": ({"zero": never}, "gradients never zeroed", "optimizer.zero_grad()"),
    "no rate": ({"make": lambda m: adam(m, lr=0.0)}, "unchanged weights", "6 of 6"),
    "no step": ({"update": never}, "unchanged weights", "none of the optimizers made a step"),
}


def faulty(changes):
    loop = Loop()
    methods = {k: v.__get__(loop) if k != "make" else v for k, v in changes.items()}
    loop.__init__(**methods)
    return loop


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_first_and_once(name):
    changes, issue, text = FAULTS[name]
    found, said = watched(faulty(changes))
    assert found.findings[0].issue == issue
    messages = [str(each.message) for each in said]
    assert text in messages[0]
    assert len({each.issue for each in found.findings}) == len(found.findings) == len(messages)
    assert said[0].filename == __file__, "the place in the user's loop"
    assert issue in str(found)
    told = [r["warning"] for r in found.history if "warning" in r]
    assert told == [each.issue for each in found.findings]


def test_what_was_seen_is_in_the_history():
    found, _ = watched(faulty({"make": lambda m: adam(m.head)}))
    (facts,) = (r["observed"] for r in found.history if "observed" in r)
    assert "rnn.weight_hh_l0" in facts["missing"]
    issues = [finding.issue for finding in free_checks(Observations.of(found.history))]
    assert issues[0] == "parameters not in the optimizer"


def test_a_number_that_is_not_finite_is_named_before_the_weights_have_it():
    def loss(self, step):
        value = Loop.loss(self, step)
        return value / (0 if step == 30 else 1)

    found, said = watched(faulty({"loss": loss}))
    assert found.findings[0].issue == "not finite"
    assert "at step 31 the loss is not finite" in str(said[0].message)

    def gradient(self, loss):
        loss.backward()
        if loss.item() and len(self.seen) == 30:
            self.model.rnn.weight_hh_l0.grad[0, 0] = math.nan
        self.seen.append(0)

    loop = faulty({"backward": gradient})
    loop.seen = []
    found, said = watched(loop, share=1.0)
    assert "at step 31 gradient of rnn.weight_hh_l0 is not finite" in str(said[0].message)


def test_clipping_is_seen_and_told():
    def clip(self, watched):
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        if self.tells:
            assert watched.gradient_norm(norm) is norm

    for tells in (False, True):
        loop = faulty({"clip": clip})
        loop.tells = tells
        found, _ = watched(loop, share=1.0)
        assert found.observed().clip_norm == pytest.approx(0.25, rel=1e-3)
        assert "clipped to 0.25 in" in str(found)
        assert (max(found.observed().norms) > 0.3) == tells
    assert watched(Loop(), share=1.0)[0].observed().clip_norm == 0


def test_evaluation_mode_is_told_where_something_would_be_dropped():
    for dropout, issues in ((0.5, ["evaluation mode"]), (0.0, [])):
        loop = Loop(model=Model(dropout).eval())
        found, _ = watched(loop)
        assert [each.issue for each in found.findings] == issues


def test_frozen_parameters_are_told_without_a_warning():
    loop = healthy("frozen")
    found, said = watched(loop)
    assert said == []
    assert "frozen: rnn.weight_ih_l0" in str(found)


def test_the_validation_loss_is_recorded():
    loop = Loop(steps=3)
    with watch(loop.model, *loop.optimizers) as found:
        loop.run(found)
        found.validation(torch.tensor(0.5, requires_grad=True), accuracy=0.75)
    record = {"step": 3, "validation_loss": 0.5, "accuracy": 0.75}
    assert record in found.history
    assert found.observed().evaluations == [(3, 0.5)]


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_is_seen_through(fused):
    def norms(scaled):
        torch.manual_seed(0)
        model = Model()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
        with watch(model, optimizer, share=1.0) as found:
            for step in range(20):
                optimizer.zero_grad()
                x, y = batch(step)
                loss = mse_loss(model(x), y) * (math.inf if scaled and step == 10 else 1)
                if not scaled and step == 10:
                    continue
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        assert found.findings == []
        return [r["gradient_norm"] for r in found.history if "gradient_norm" in r]

    assert norms(True) == pytest.approx(norms(False), rel=1e-4)


def test_a_compiled_module_is_watched():
    loop = Loop(steps=4)
    model = torch.compile(loop.model, backend="eager")
    with watch(model, *loop.optimizers) as found:
        for step in range(4):
            loop.zero(step)
            x, y = batch(step)
            mse_loss(model(x), y).backward()
            loop.update(step)
    assert found.step == 4 and found.findings == []
    assert found.history[-1]["observed"]["missing"] == []


def test_sparse_gradients_are_measured():
    model = nn.Embedding(9, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.01)
    with watch(model, optimizer) as found:
        for step in range(12):
            optimizer.zero_grad()
            model(torch.tensor([1, step % 4])).sum().backward()
            optimizer.step()
    assert found.findings == []
    assert found.history[0]["gradient_norm"] == pytest.approx(math.sqrt(8))


def test_wrong_arguments_are_refused():
    model = Model()
    for arguments in ((model,), (model, "adam"), (adam(model), model)):
        with pytest.raises(OstinatoError, match=r"expected watch\(module, optimizer\)"):
            watch(*arguments)


# Lightning


def test_without_lightning_the_extra_is_named(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    module = importlib.import_module("ostinato.lightning")
    module._callback.cache_clear()
    with pytest.raises(MissingExtra, match=r"ostinato\[lightning\]"):
        module.Watch  # noqa: B018


@pytest.mark.skipif(not LIGHTNING, reason="Lightning is not installed: ostinato[lightning]")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parts", [1, 3], ids=["each batch", "accumulated"])
def test_lightning_trains_the_same_and_is_watched(tmp_path, parts):
    Watch = importlib.import_module("ostinato.lightning").Watch
    pl = importlib.import_module(Watch.__mro__[1].__module__.partition(".callbacks")[0])

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.model = Model()

        def training_step(self, given, number):
            return mse_loss(self.model(given[0]), given[1])

        def validation_step(self, given, number):
            self.log("val_loss", mse_loss(self.model(given[0]), given[1]))

        def configure_optimizers(self):
            return adam(self.model)

    def trained(*callbacks):
        data, few = (DataLoader([*map(batch, range(n))], batch_size=None) for n in (12, 2))
        module = Module()
        trainer = pl.Trainer(
            max_epochs=2,
            accumulate_grad_batches=parts,
            callbacks=[*callbacks],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, data, few)
        return module, trainer

    alone, _ = trained()
    callback = Watch()
    module, trainer = trained(callback)
    assert all(map(torch.equal, module.state_dict().values(), alone.state_dict().values()))
    found = callback.watch
    assert found.step == 24 // parts
    assert len([r for r in found.history if "validation_loss" in r]) == 2
    assert len([r for r in found.history if r.get("gradient_norm", 0) > 0]) >= 3
    assert found.findings == []
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks
