"""A malformed argument of the core is an error that names it, and does nothing else."""

import os
import random
import subprocess
import sys
import sysconfig
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import core_check
import nanobind
import numpy as np
import pytest
import torch
from layer_cases import KINDS

from ostinato import _core
from ostinato.errors import ShapeError
from ostinato.recurrence.backends.compiled import shape_of
from ostinato.recurrence.cells import LSTMCell

TESTS = Path(__file__).parent
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
NAMES = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")
SENTINEL = -77.0
MALFORMED = 2000


class Call:
    """A sound call of the core's `forward` or `backward`; its arguments by name."""

    def __init__(self, rng, backward=None, T=None, B=None):
        self.backward = rng.random() < 0.6 if backward is None else backward
        make, options = KINDS[rng.choice(list(KINDS))]
        I, H = rng.randint(1, 20), rng.randint(1, 20)
        if "proj_size" in options:
            H += 1
            options = {"proj_size": rng.randint(1, H - 1)}
        cell = make(I, H, bias=rng.random() < 0.7, **options)
        self.cell, self.lstm = cell, make is LSTMCell
        self.projects = bool(getattr(cell, "proj_size", 0))
        T = rng.randint(1, 4) if T is None else T
        B = rng.randint(1, 4) if B is None else B
        D, P = rng.choice([1, 2]), cell.output_size
        self.dtype = dtype = rng.choice([torch.float32, torch.float64])
        shape = shape_of(cell)
        length = _core.line_length(shape, dtype == torch.float64)
        self.D = D

        def numbers(*size):
            return torch.randn(size, dtype=dtype)

        def place(*size):
            return torch.full(size, SENTINEL, dtype=dtype)

        w = cell.weight_shapes()
        weights = [numbers(*w[n]) if n in w else None for n in WEIGHTS] * D
        self.tokens = not self.backward and rng.random() < 0.15
        a = self.arguments = {"shape": shape, "x": numbers(T, B, I), "lengths": None}
        if rng.random() < 0.5:
            a["lengths"] = torch.tensor([rng.randint(0, T) for _ in range(B)], dtype=torch.int64)
        given = rng.random() < 0.7
        a["h0"] = numbers(D, B, P) if given else None
        a["c0"] = numbers(D, B, H) if given and self.lstm else None
        a["weights"] = tuple(weights)
        a["y"] = place(T, B, D * P)
        ends = {"h_n": place(D, B, P), "c_n": place(D, B, H) if self.lstm else None}
        ends["lines"] = place(D, T, B, length)
        a.update(ends)
        a["threads"] = rng.randint(1, 3)
        if self.tokens:
            a["x"] = numbers(5, I)
            numbers_of_rows = [rng.randint(0, 4) for _ in range(T * B)]
            a["tokens"] = torch.tensor(numbers_of_rows, dtype=torch.int64).reshape(T, B)
        if self.backward:
            _core.forward(**a)
            threads = a.pop("threads")
            for name in ("h_n", "c_n"):
                del a[name]
            a["dy"], a["dh_n"] = numbers(T, B, D * P), numbers(D, B, P)
            a["dc_n"] = numbers(D, B, H) if self.lstm else None
            a["dx"], a["dh0"] = place(T, B, I), place(D, B, P)
            a["dc0"] = place(D, B, H) if self.lstm else None
            a["dweights"] = tuple(None if t is None else place(*t.shape) for t in weights)
            a["threads"] = threads

    def __call__(self, **changed):
        return (_core.backward if self.backward else _core.forward)(**self.arguments | changed)

    def tensors(self):
        return [t for a in self.arguments.values() for t in (a if type(a) is tuple else [a])]

    def bits(self):
        return [t.numpy().tobytes() if torch.is_tensor(t) else repr(t) for t in self.tensors()]

    def slots(self):
        """The places of tensors: the name in errors, a way to change it, whether None is sound."""
        needed = {"x", "y", "tokens", *(["lines", "lengths"] if self.backward else ["lengths"])}
        for name, value in self.arguments.items():
            if torch.is_tensor(value):

                def change(new, name=name):
                    return {name: new}

                yield name, value, change, name not in needed or name == "lengths"
            elif name in ("weights", "dweights"):
                for k, tensor in enumerate(value):
                    if tensor is None or (k % 5 == 4 and not self.projects):
                        continue

                    def change(new, name=name, value=value, k=k):
                        return {name: (*value[:k], new, *value[k + 1 :])}

                    shown = ("d" if name == "dweights" else "") + NAMES[k % 5]
                    yield shown, tensor, change, name == "dweights" or k % 5 in (2, 3)


SEQUENCES = {"x", "y", "dy", "dx"}


def wrong_kind(rng, name, tensor, optional):
    """Something that is no tensor of numbers in memory."""
    kinds = [3, 2.5, "a tensor", [1.0, 2.0], (), {}, object(), tensor.numpy(), tensor.tolist()]
    kinds += [torch.float32, True, b"", np.float64(2), type(tensor), lambda: tensor]
    kinds += [tensor.to("meta"), tensor.to_sparse(), torch._efficientzerotensor(tensor.shape)]
    emptied = tensor.clone()
    emptied.untyped_storage().resize_(0)
    if tensor.numel():
        kinds.append(emptied)
    if tensor.dim() == 2:
        kinds.append(tensor.to_sparse_csr())
    if not optional:
        kinds.append(None)
    return rng.choice(kinds)


def wrong_type(rng, name, tensor, optional):
    types = [torch.float16, torch.bfloat16, torch.complex64, torch.int32, torch.bool, torch.uint8]
    types += [torch.int64 if tensor.is_floating_point() else torch.float64]
    if tensor.is_floating_point() and name != "x":  # x says what all the others have to be
        types.append(torch.float64 if tensor.dtype == torch.float32 else torch.float32)
    return tensor.to(rng.choice(types))


def wrong_shape(rng, name, tensor, optional):
    size = list(tensor.shape)
    # x says what T and B are; tokens do, and a table what the number of its rows is.
    first = {"x": len(size) - 1, "tokens": len(size)}.get(name, 0)
    axes = range(first, len(size))
    ways = ["flat", "axis more", "huge"]
    if name == "tokens":
        ways = ["flat", "axis more"]
    if axes:
        ways += ["longer", "shorter"]
    way = rng.choice(ways)
    if way == "flat":
        return tensor.reshape(-1) if tensor.dim() != 1 else tensor.reshape(-1, 1)
    if way == "axis more":
        return tensor.unsqueeze(rng.randint(0, len(size)))
    axis = rng.choice(axes)
    if way == "huge":  # sizes whose product is past every integer, and no memory for any of it
        size[axis] = 2**40
        if size[axis] * max(1, tensor.numel()) > 2**62:
            return tensor.unsqueeze(0)
        return torch.empty(0, dtype=tensor.dtype).new_zeros(1).expand(size)
    size[axis] += 1 if way == "longer" or size[axis] == 0 else -1
    return tensor.new_zeros(size)


def wrong_strides(rng, name, tensor, optional):
    """Sound numbers and shape in a layout that cannot be taken; None where every one can."""
    layouts = []
    if name in SEQUENCES and tensor.dim() == 3:
        T, B, n = tensor.shape
        if n > 1:
            layouts.append(tensor.transpose(0, 2).contiguous().transpose(0, 2))
            layouts.append(tensor.repeat_interleave(2, dim=2)[..., ::2])
            layouts.append(tensor.new_zeros(T, B, 1).expand(T, B, n))
            layouts = [each for each in layouts if each.stride(2) != 1]
        if name in ("y", "dx"):  # two numbers in one place
            if T > 1:
                layouts.append(tensor.new_zeros(1, B, n).expand(T, B, n))
            if B > 1:
                layouts.append(tensor.new_zeros(T, 1, n).expand(T, B, n))
            if B > 1 and n > 1:
                layouts.append(tensor.new_zeros(T * B * n).as_strided((T, B, n), (B * n, n - 1, 1)))
            if T > 1 and B > 1:
                layouts.append(tensor.new_zeros(T * B * n).as_strided((T, B, n), (n, n, 1)))
        return rng.choice(layouts) if layouts else None
    if name == "tokens":
        return None
    for axis in range(tensor.dim()):
        if tensor.shape[axis] > 1:
            layouts.append(tensor.repeat_interleave(2, dim=axis).unflatten(axis, (-1, 2)))
            layouts[-1] = layouts[-1].select(axis + 1, 0)
            layouts.append(tensor.narrow(axis, 0, 1).expand(tensor.shape))
            layouts.append(tensor.movedim(axis, 0).clone(memory_format=torch.contiguous_format))
            layouts[-1] = layouts[-1].movedim(0, axis)
    layouts = [each for each in layouts if not each.is_contiguous()]
    return rng.choice(layouts) if layouts else None


def wrong_tensor(rng, call):
    """A place, what is put there, and the name that the error has to begin with."""
    name, tensor, change, optional = rng.choice(list(call.slots()))
    break_it = rng.choice([wrong_kind, wrong_type, wrong_shape, wrong_strides])
    new = break_it(rng, name, tensor, optional)
    if new is None and (optional or break_it is not wrong_kind):
        return None
    if name == "y" and call.backward and break_it is wrong_strides and new.stride(2) == 1:
        return None  # backward only reads it
    return change(new), (name,)


def wrong_lengths(rng, call):
    T, B = (call.arguments["tokens" if call.tokens else "x"]).shape[:2]
    sound = [rng.randint(0, T) for _ in range(B)]
    sound[rng.randrange(B)] = rng.choice([-1, T + 1, -(2**63), 2**63 - 1, 2**40, -T - 1])
    return {"lengths": torch.tensor(sound, dtype=torch.int64)}, ("lengths",)


def wrong_threads(rng, call):
    values = [0, -1, 2**15 + 1, 2**31, 2**63, -(2**200), 1.0, True, None, "2", [2], np.int64(2)]
    return {"threads": rng.choice([*values, torch.tensor(2)])}, ("threads",)


def wrong_sizes(rng, call):
    sizes = list(call.arguments["shape"])
    k = rng.randrange(5)
    wrong = [-1, 2**31 + 1, 2**64, 1.0, None, "3", True, torch.tensor(3), (3,)]
    wrong += [4, 17] if k < 2 else [0]
    if k == 4:
        wrong.append(sizes[3] + 1)
    sizes[k] = rng.choice(wrong)
    name = "shape." + ["cell", "activation", "I", "H", "P"][k]
    whole = rng.random()
    if whole < 0.2:
        sizes = call.arguments["shape"][: rng.randrange(5)]
        return {"shape": rng.choice([sizes, (*call.arguments["shape"], 1)])}, ("shape",)
    if whole < 0.4:
        return {"shape": rng.choice([sizes, None, 5, "shape", set(), torch.Size])}, ("shape",)
    return {"shape": tuple(sizes)}, (name,)


def other_sizes(rng, call):
    """Sizes that are sound and not those of the tensors."""
    sizes = list(call.arguments["shape"])
    k = rng.choice([2, 3])
    more = rng.choice([1, 3, 2**20, 2**30])
    sizes[k] += more
    if k == 3 and not call.projects:
        sizes[4] = sizes[3]
    return {"shape": tuple(sizes)}, None


def wrong_tuples(rng, call):
    name = rng.choice(["weights", "dweights"] if call.backward else ["weights"])
    value = call.arguments[name]
    other = list(value), dict(enumerate(value)), None, 5, value[0], iter(value), "weights"
    sizes = value[:4], (*value, None), value[:1], (), (*value, *value, *value)
    if name == "dweights":
        sizes = (*sizes, value * 2 if call.D == 1 else value[:5])
    return {name: rng.choice([*other, *sizes])}, (name,)


def wrong_lines(rng, call):
    lines = call.arguments["lines"]
    room = torch.zeros(lines.numel() + 64, dtype=lines.dtype)
    start = -room.data_ptr() // lines.element_size() % (64 // lines.element_size())
    start += rng.choice([1, 2, 3, 5, 7])
    moved = room[start : start + lines.numel()].view(lines.shape)
    assert moved.data_ptr() % 64
    return {"lines": moved}, ("lines",)


def wrong_tokens(rng, call):
    if not call.tokens:
        return None
    tokens = call.arguments["tokens"].clone()
    tokens.view(-1)[rng.randrange(tokens.numel())] = rng.choice([-1, 5, 2**40, -(2**63)])
    return {"tokens": tokens}, ("tokens",)


WAYS = [wrong_tensor] * 12
WAYS += [wrong_lengths, wrong_threads, wrong_sizes, other_sizes, wrong_tuples, wrong_lines]
WAYS += [wrong_tokens] * 2

ARGUMENTS = {
    *("x", "lengths", "h0", "c0", "weights", "y", "h_n", "c_n", "lines", "tokens"),
    *("dy", "dh_n", "dc_n", "dx", "dh0", "dc0", "dweights"),
    *NAMES,
    *(f"d{name}" for name in NAMES),
}


def refuse(seed):
    """Make the malformed call of this number, and see that it is refused as it should be."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    call, wrong = Call(rng), None
    while wrong is None:
        wrong = rng.choice(WAYS)(rng, call)
    changed, names = wrong
    before = call.bits()
    try:
        call(**changed)
    except ShapeError as error:
        name = str(error).partition(" ")[0]
        assert name in (names or ARGUMENTS), f"{seed}: {names}, but: {error}"
        assert "; expected " in str(error), f"{seed}: {error}"
    except BaseException as error:
        raise AssertionError(f"{seed}: {names}: {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{seed}: {names}: {list(changed.values())} is taken")
    assert call.bits() == before, f"{seed}: {names}: something was written"


def refuse_all(seeds):
    """As a program: refuses them all, and says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that sparse tensors are new
        for seed in seeds:
            refuse(seed)
    print("all are refused")


def test_malformed_calls_are_refused_and_do_no_harm_in_a_process_of_their_own():
    done = subprocess.run(
        [
            sys.executable,
            *("-X", "faulthandler", "-c"),
            f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
            f"import test_bindings as t; t.refuse_all(range({MALFORMED}))",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "all are refused\n"), done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("group", range(20))
def test_malformed_calls_are_refused_and_name_the_argument(group):
    for seed in range(MALFORMED + 100 * group, MALFORMED + 100 * (group + 1)):
        refuse(seed)


def test_the_malformed_calls_are_of_every_kind():
    met = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(MALFORMED):
            rng = random.Random(seed)
            torch.manual_seed(seed)
            call, wrong = Call(rng), None
            while wrong is None:
                wrong = rng.choice(WAYS)(rng, call)
            for name in wrong[1] or ["sizes"]:
                met[name] = met.get(name, 0) + 1
    kinds = ARGUMENTS | {"threads", "shape", "sizes"}
    kinds |= {f"shape.{name}" for name in ("cell", "activation", "I", "H", "P")}
    assert kinds - {name for name, count in met.items() if count >= 3} == set()


@pytest.mark.parametrize("seed", range(300))
def test_what_is_malformed_here_is_sound_but_for_that(seed):
    call = Call(random.Random(seed))
    before = call.bits()
    call()
    assert call.bits() != before
    for name in ("y", "h_n", "c_n") if not call.backward else ("dx", "dh0", "dc0"):
        if call.arguments[name] is not None:
            assert not (call.arguments[name] == SENTINEL).any()
    if call.backward:
        k = [4] if not call.projects else []
        for i, tensor in enumerate(call.arguments["dweights"]):
            assert tensor is None or i % 5 in k or not (tensor == SENTINEL).any()


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0), (1, 1)])
def test_calls_without_steps_or_rows_are_sound(T, B, seed):
    call = Call(random.Random(seed), T=T, B=B)
    a = call.arguments
    call()
    if call.backward:
        if T == 0:
            assert torch.equal(a["dh0"], a["dh_n"])
            assert not call.lstm or torch.equal(a["dc0"], a["dc_n"])
        if T == 0 or B == 0:
            for w in a["dweights"]:
                assert w is None or not w.any()
    elif T == 0:
        assert torch.equal(a["h_n"], torch.zeros_like(a["h_n"]) if a["h0"] is None else a["h0"])


@pytest.mark.thorough
@pytest.mark.skipif(not core_check.available(), reason="no C++ compiler here")
def test_the_bindings_keep_to_the_stable_abi():
    """From Python 3.12 on they are built for it, one wheel for all; before, nothing else tells."""
    source = TESTS.parent / "cpp" / "bindings.cpp"
    folders = [nanobind.include_dir(), sysconfig.get_path("include")]
    folders.append(Path(nanobind.source_dir()).parent / "ext" / "robin_map" / "include")
    done = subprocess.run(
        [*core_check.compiler(), "-std=c++17", "-fsyntax-only", "-DPy_LIMITED_API=0x030C0000",
         "-DNB_DOMAIN=test", *(f"-I{folder}" for folder in folders), str(source)],
        capture_output=True, text=True,
    )  # fmt: skip
    # The headers of an older Python lack what nanobind takes from 3.12.
    found = [line for line in done.stderr.splitlines() if line.startswith(f"{source}:")]
    assert not [line for line in found if " error: " in line]


def test_what_is_not_wanted_may_be_left_out():
    for seed in range(100):
        call = Call(random.Random(seed))
        call(**{n: None for n in ("h_n", "c_n", "lines") if not call.backward})
        if call.backward:
            call = Call(random.Random(seed))
            nothing = dict.fromkeys(("dy", "dh_n", "dc_n", "dx", "dh0", "dc0"))
            call(**nothing, dweights=(None,) * (5 * call.D))


def test_inputs_may_require_gradients_and_lie_anywhere():
    for seed in range(100):
        theirs, call = (Call(random.Random(seed), backward=False) for _ in "12")
        for name, tensor in theirs.arguments.items():
            if torch.is_tensor(tensor):
                call.arguments[name] = tensor.clone()
        weights = theirs.arguments["weights"]
        call.arguments["weights"] = tuple(
            None if w is None else w.clone().requires_grad_() for w in weights
        )
        y = call.arguments["y"]
        T, B, n = y.shape
        wide = torch.full((B, T + 1, n + 3), SENTINEL, dtype=y.dtype)
        call.arguments["y"] = wide[:, 1:, 2 : n + 2].transpose(0, 1)
        theirs()
        call()
        assert torch.equal(theirs.arguments["y"], call.arguments["y"])
        wide[:, 1:, 2 : n + 2] = SENTINEL
        assert (wide == SENTINEL).all(), "nothing is written beside it"


@pytest.mark.parametrize("function", [_core.line_length, _core.gate_at])
@pytest.mark.parametrize(
    "shape",
    [[0, 0, 3, 4, 4], (), (0, 0, 3, 4), (0, 0, 3, 4, 5), (4, 0, 3, 4, 4), (0, 0, 0, 4, 4)],
)
def test_sizes_are_checked_wherever_they_are_taken(function, shape):
    more = (0,) if function is _core.gate_at else ()
    with pytest.raises(ShapeError, match="^shape"):
        function(shape, True, *more)


def test_several_threads_find_the_peak_at_the_same_time():
    with ThreadPoolExecutor(2) as pool:
        rates = list(pool.map(_core.peak_flops, [0.0, 0.01]))
    assert all(0 < rate < float("inf") for rate in rates)


def test_tensors_are_read_as_they_lie():
    x, w = torch.randn(3, 2, 4), torch.randn(4, 4)
    negative = torch.randn(4, 4, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    assert _core.are_readable()
    assert _core.are_readable(x, None, w, x)
    assert _core.are_readable(x.transpose(0, 1), w)  # the features of a step lie side by side
    assert _core.are_readable(torch.randn(3, 2, 1)[:, :, :1].expand(3, 2, 1), w)
    assert not _core.are_readable(x.transpose(1, 2), w)
    assert not _core.are_readable(w.T, w)  # a table is read whole
    assert not _core.are_readable(x, w.T)
    assert not _core.are_readable(x, None, x.transpose(0, 1))
    assert not _core.are_readable(x, negative)
    assert not _core.are_readable(negative[None], w)
    with pytest.raises(ShapeError, match="^tensors"):
        _core.are_readable(x.to("meta"))


WITHOUT_TABLE = """
import sys, hashlib, torch
if sys.argv[1] == "without":
    del torch.Tensor.__dlpack_c_exchange_api__
sys.path.insert(0, sys.argv[2])
import random, test_bindings as t
seen = hashlib.sha256()
for seed in range(100):
    torch.manual_seed(seed)
    call = t.Call(random.Random(seed))
    call()
    for bits in call.bits():
        seen.update(bits if isinstance(bits, bytes) else bits.encode())
    t.refuse(seed)
print(seen.hexdigest())
"""


def test_a_pytorch_without_the_exchange_table_is_read_by_its_attributes():
    found = []
    for how in ["with", "without"] if hasattr(torch.Tensor, "__dlpack_c_exchange_api__") else []:
        command = [sys.executable, "-c", WITHOUT_TABLE, how, str(TESTS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(done.stdout)
    assert len(set(found)) <= 1


CHANGED_MEANWHILE = """
import threading, numpy, torch
from ostinato import _core
from ostinato.errors import ShapeError
T, B, V, H = 50, 1000, 7, 8  # so many rows that NumPy lets go of the GIL while it writes
x = torch.randn(V if {tokens} else T, *(() if {tokens} else (B,)), 3)
numbers = torch.zeros((T, B) if {tokens} else (B,), dtype=torch.int64)
seen, done = numbers.numpy(), False
def rewrite():
    wild = numpy.full_like(seen, 1 << 40)
    while not done:
        seen[...] = wild
        seen[...] = 1
thread = threading.Thread(target=rewrite, daemon=True)
thread.start()
w = (torch.randn(H, 3), torch.randn(H, H), None, None, None)
y, h = torch.empty(T, B, H), torch.empty(1, B, H)
given = dict(lengths=None, tokens=numbers) if {tokens} else dict(lengths=numbers)
served = refused = 0
while served < 30 or refused < 10:
    try:
        _core.forward((0, 0, 3, H, H), x, h0=None, c0=None, weights=w, y=y, h_n=h, c_n=None,
                      lines=None, threads=1, **given)
        served += 1
    except ShapeError:
        refused += 1
done = True
thread.join()
print("alive")
"""


@pytest.mark.parametrize("tokens", [False, True], ids=["lengths", "tokens"])
def test_numbers_that_another_thread_changes_meanwhile_are_safe(tokens):
    command = [sys.executable, "-c", CHANGED_MEANWHILE.replace("{tokens}", str(tokens))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-3000:]
