// The Python module ostinato._core: names, checks and docstrings; nothing is computed here.
// src/ostinato/_core.pyi says the same in types.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core.hpp"

namespace nb = nanobind;
using namespace ostinato;

namespace {

// All errors of this module are of one family, and begin with the name of the argument.
[[noreturn]] void refuse(const std::string& name, const std::string& came, const std::string& expected) {
    // Looked up each time: an error may take its time, and a module kept here would outlive Python.
    nb::object error = nb::module_::import_("ostinato.errors").attr("ShapeError");
    PyErr_SetString(error.ptr(), (name + " " + came + "; expected " + expected + ".").c_str());
    throw nb::python_error();
}

// Sizes or strides; the numbers are somebody else's.
struct Sizes {
    const int64_t* data = nullptr;
    size_t count = 0;

    Sizes() = default;
    Sizes(const int64_t* data, size_t count) : data(data), count(count) {}
    Sizes(const std::vector<int64_t>& numbers) : data(numbers.data()), count(numbers.size()) {}
    Sizes(std::initializer_list<int64_t> numbers) : data(numbers.begin()), count(numbers.size()) {}

    size_t size() const { return count; }
    bool empty() const { return count == 0; }
    int64_t operator[](size_t i) const { return data[i]; }
    bool operator!=(const Sizes& other) const {
        return count != other.count || !std::equal(data, data + count, other.data);
    }
};

std::string shape_text(const Sizes& shape) {
    std::string text = "(";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

std::string is_a(nb::handle object) {
    return std::string("is a ") + nb::str(object.type().attr("__name__")).c_str();
}

int64_t integer(nb::handle object, const char* name, int64_t least, int64_t most) {
    if (!PyLong_Check(object.ptr()) || PyBool_Check(object.ptr()))
        refuse(name, is_a(object), "a whole number");
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
    if (overflow || value < least || value > most)
        refuse(name, "is " + std::string(overflow ? "too large" : std::to_string(value)),
               std::to_string(least) + " to " + std::to_string(most));
    return value;
}

// What is used of the DLPack exchange table, version 1, that PyTorch 2.10 and newer have on the class of
// tensors: a tensor's numbers in memory without a call of Python. https://dmlc.github.io/dlpack
struct DLTensor {
    void* data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};
struct ExchangeTable {
    uint32_t major, minor;
    const void* older;
    void (*allocate)();
    void (*export_managed)();
    void (*import_managed)();
    int (*borrow)(void* tensor, DLTensor*);  // -1 with a Python exception; null where there is none
};

// Looked up once: interned names of the attributes of a tensor, PyTorch's types.
struct Names {
    PyObject *is_cpu = PyUnicode_InternFromString("is_cpu"), *dtype = PyUnicode_InternFromString("dtype"),
             *shape = PyUnicode_InternFromString("shape"), *stride = PyUnicode_InternFromString("stride"),
             *data_ptr = PyUnicode_InternFromString("data_ptr"), *is_neg = PyUnicode_InternFromString("is_neg"),
             *copy = PyUnicode_InternFromString("copy"), *clone = PyUnicode_InternFromString("clone");
    PyObject *float32, *float64, *int64, *boolean, *tensor, *parameter;
    int (*borrow)(void* tensor, DLTensor*) = nullptr;

    Names() {
        nb::module_ torch = nb::module_::import_("torch");
        auto keep = [](nb::object object) { return object.release().ptr(); };
        float32 = keep(torch.attr("float32")), float64 = keep(torch.attr("float64")), int64 = keep(torch.attr("int64"));
        boolean = keep(torch.attr("bool"));
        tensor = keep(torch.attr("Tensor")), parameter = keep(torch.attr("nn").attr("Parameter"));
        nb::object capsule = nb::getattr(nb::handle(tensor), "__dlpack_c_exchange_api__", nb::none());
        if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return;
        const auto* table =
            static_cast<const ExchangeTable*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
        if (table->major == 1) borrow = table->borrow;
    }
    // Whether something is a tensor and no class derived from it.
    bool is_plain_tensor(nb::handle object) const {
        PyTypeObject* type = Py_TYPE(object.ptr());
        return reinterpret_cast<PyObject*>(type) == tensor || reinterpret_cast<PyObject*>(type) == parameter;
    }
};
const Names& names() {
    static const Names* const once = new Names;  // never freed: Python may be gone before it
    return *once;
}

// A tensor on the CPU as numbers in memory, for as long as the GIL is held and the tensor lives. Plain
// tensors are read through DLPack's table; others, and those that it cannot tell of, through PyTorch's
// own attributes, which cost ten times as much and give the reason where there is no memory.
struct View {
    void* data = nullptr;
    PyObject* dtype = nullptr;  // borrowed: PyTorch's types live for ever
    Sizes shape, stride;

    View(nb::handle tensor, const char* name) {
        const Names& n = names();
        if (!borrow(tensor, n)) read(tensor, name, n);
        if (!data && size() > 0) refuse(name, "has no memory", "a dense CPU tensor");
    }
    View(const View&) = delete;

    int64_t size() const {
        int64_t n = 1;
        for (size_t i = 0; i < shape.size(); ++i) n *= shape[i];
        return n;
    }
    bool contiguous() const {
        int64_t expected = 1;
        for (size_t i = shape.size(); i-- > 0; expected *= shape[i])
            if (shape[i] != 1 && stride[i] != expected && size() > 0) return false;
        return true;
    }

private:
    std::vector<int64_t> numbers_[2];  // what shape and stride show, where the tensor does not hold them

    bool borrow(nb::handle tensor, const Names& n) {
        if (!n.borrow || !n.is_plain_tensor(tensor)) return false;
        DLTensor t;
        if (n.borrow(tensor.ptr(), &t) != 0) {
            PyErr_Clear();
            return false;
        }
        constexpr int32_t cpu = 1;
        constexpr uint8_t integers = 0, floats = 2;
        if (t.code == floats && t.bits == 32) dtype = n.float32;
        else if (t.code == floats && t.bits == 64) dtype = n.float64;
        else if (t.code == integers && t.bits == 64) dtype = n.int64;
        if (!dtype || t.lanes != 1 || t.device_type != cpu) return false;
        data = t.data ? static_cast<char*>(t.data) + t.byte_offset : nullptr;
        shape = Sizes(t.shape, size_t(t.ndim)), stride = Sizes(t.strides, size_t(t.ndim));
        return true;
    }
    void read(nb::handle tensor, const char* name, const Names& n) {
        const int is_tensor = PyObject_IsInstance(tensor.ptr(), n.tensor);
        if (is_tensor < 0) throw nb::python_error();
        if (!is_tensor) refuse(name, is_a(tensor), "a tensor");
        try {
            if (nb::steal(get(tensor, n.is_cpu)).ptr() != Py_True) refuse(name, "is not on the CPU", "a CPU tensor");
            nb::object type = nb::steal(get(tensor, n.dtype));
            dtype = type.ptr();
            numbers_[0] = integers(nb::steal(get(tensor, n.shape)));
            numbers_[1] = integers(call(tensor, n.stride));
            shape = numbers_[0], stride = numbers_[1];
            data = PyLong_AsVoidPtr(call(tensor, n.data_ptr).ptr());
        } catch (nb::python_error& error) {
            if (error.matches(nb::module_::import_("ostinato.errors").attr("ShapeError"))) throw;
            refuse(name, std::string("cannot be read (") + error.what() + ")", "a dense CPU tensor");
        }
    }
    static PyObject* get(nb::handle tensor, PyObject* name) {
        PyObject* value = PyObject_GetAttr(tensor.ptr(), name);
        if (!value) throw nb::python_error();
        return value;
    }
    static nb::object call(nb::handle tensor, PyObject* name) {
        PyObject* value = PyObject_CallMethodObjArgs(tensor.ptr(), name, nullptr);
        if (!value) throw nb::python_error();
        return nb::steal(value);
    }
    static std::vector<int64_t> integers(const nb::object& tuple) {
        std::vector<int64_t> values(size_t(PyTuple_Size(tuple.ptr())));
        for (size_t i = 0; i < values.size(); ++i) {
            values[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple.ptr(), Py_ssize_t(i)));
            if (values[i] == -1 && PyErr_Occurred()) throw nb::python_error();
        }
        return values;
    }
};

template <class T> PyObject* dtype_of();
template <> PyObject* dtype_of<float>() { return names().float32; }
template <> PyObject* dtype_of<double>() { return names().float64; }
template <> PyObject* dtype_of<int64_t>() { return names().int64; }
template <> PyObject* dtype_of<uint8_t>() { return names().boolean; }
template <class T> const char* type_name();
template <> const char* type_name<float>() { return "torch.float32"; }
template <> const char* type_name<double>() { return "torch.float64"; }
template <> const char* type_name<int64_t>() { return "torch.int64"; }
template <> const char* type_name<uint8_t>() { return "torch.bool"; }

template <class T> void check(const View& view, const char* name, const Sizes& shape) {
    if (view.dtype != dtype_of<T>())
        refuse(name, std::string("has dtype ") + nb::str(nb::handle(view.dtype)).c_str(), type_name<T>());
    if (view.shape != shape) refuse(name, "has shape " + shape_text(view.shape), shape_text(shape));
}

// A contiguous tensor; null for None where that is allowed.
template <class T> T* dense(nb::handle tensor, const char* name, const Sizes& shape, bool optional = true) {
    if (optional && tensor.is_none()) return nullptr;
    const View view(tensor, name);
    check<T>(view, name, shape);
    if (!view.contiguous()) refuse(name, "has strides " + shape_text(view.stride), "contiguous memory");
    return static_cast<T*>(view.data);
}

// A tensor (T, B, features) whose features lie side by side; `written`: no two elements may share a place.
template <class T> T* sequence(nb::handle tensor, const char* name, const Sizes& shape, int64_t& t_stride, int64_t& b_stride,
                               bool written = false) {
    const View view(tensor, name);
    check<T>(view, name, shape);
    if (view.stride[2] != 1 && shape[2] > 1 && view.size() > 0)
        refuse(name, "has strides " + shape_text(view.stride), "its last axis to be contiguous");
    t_stride = view.stride[0], b_stride = view.stride[1];
    if (written && view.size() > 0) {
        const bool t_inside = b_stride > t_stride;
        const int64_t n_in = t_inside ? shape[0] : shape[1], step_in = t_inside ? t_stride : b_stride;
        const int64_t n_out = t_inside ? shape[1] : shape[0], step_out = t_inside ? b_stride : t_stride;
        if ((n_in > 1 && step_in < shape[2]) || (n_out > 1 && step_out < (n_in - 1) * step_in + shape[2]))
            refuse(name, "has strides " + shape_text(view.stride), "memory in which no two elements overlap");
    }
    return static_cast<T*>(view.data);
}

nb::tuple tuple_of(nb::handle object, const char* name, size_t size) {
    if (!nb::isinstance<nb::tuple>(object)) refuse(name, is_a(object), "a tuple");
    nb::tuple tuple = nb::borrow<nb::tuple>(object);
    if (size && nb::len(tuple) != size)
        refuse(name, "has " + std::to_string(nb::len(tuple)) + " entries", std::to_string(size));
    return tuple;
}

// (cell, activation, I, H, P), as core.hpp numbers them.
Shape shape_of(nb::handle object) {
    const nb::tuple t = tuple_of(object, "shape", 5);
    constexpr int64_t most = int64_t(1) << 31;
    Shape s{CellKind(integer(t[0], "shape.cell", 0, 3)), Activation(integer(t[1], "shape.activation", 0, 3)),
            integer(t[2], "shape.I", 1, most), integer(t[3], "shape.H", 1, most), integer(t[4], "shape.P", 1, most)};
    if (s.projects() && (s.cell != CellKind::lstm || s.P > s.H))
        refuse("shape.P", "is " + std::to_string(s.P), "H, or for an LSTM less");
    return s;
}

// What the core finds its way through memory by, copied while the GIL is held, so that no other thread
// can change it after it was checked.
struct Indices {
    std::vector<int64_t> lengths, tokens;

    const int64_t* copy_of(nb::handle given, int64_t steps, int64_t rows, const char* name = "lengths") {
        if (given.is_none()) return nullptr;
        const int64_t* from = dense<int64_t>(given, name, {rows}, false);
        lengths.assign(from, from + rows);
        lengths.push_back(0);  // never null
        for (int64_t b = 0; b < rows; ++b)
            if (lengths[size_t(b)] < 0 || lengths[size_t(b)] > steps)
                refuse(name, "has " + std::to_string(lengths[size_t(b)]) + " for row " + std::to_string(b),
                       "0 to " + std::to_string(steps));
        return lengths.data();
    }
};

// The arguments that forward and backward share. States are (directions, B, size), the workspace (`lines`)
// (directions, T, B, length), c_kept (directions, checkpoints, B, H); `weights` holds w_ih, w_hh, b_ih,
// b_hh, w_hr of each direction.
template <class T>
Sequence<T> sequence_of(const Shape& s, nb::handle x, nb::handle tokens, nb::handle lengths, nb::handle h0, nb::handle c0,
                        nb::handle weights, nb::handle y, nb::handle lines, nb::handle checkpoint_every, nb::handle c_kept,
                        bool writes, Indices& indices) {
    Sequence<T> q{};
    q.shape = s;
    const nb::tuple w = tuple_of(weights, "weights", 0);
    if (nb::len(w) != 5 && nb::len(w) != 10)
        refuse("weights", "has " + std::to_string(nb::len(w)) + " entries", "5 for each of one or two directions");
    q.directions = int(nb::len(w)) / 5;
    const View input(x, "x");
    const int64_t G = s.gates(), D = q.directions;
    if (tokens.is_none()) {
        if (input.shape.size() != 3)
            refuse("x", "has shape " + shape_text(input.shape), "(T, B, " + std::to_string(s.I) + ")");
        q.steps = input.shape[0], q.rows = input.shape[1];
        q.x = sequence<T>(x, "x", {q.steps, q.rows, s.I}, q.x_t, q.x_b);
    } else {
        q.table_rows = input.shape.empty() ? 0 : input.shape[0];
        q.x = dense<T>(x, "x", {q.table_rows, s.I}, false);
        q.x_b = s.I;
        const View numbers(tokens, "tokens");
        if (numbers.dtype != names().int64)
            refuse("tokens", std::string("has dtype ") + nb::str(nb::handle(numbers.dtype)).c_str(), "torch.int64");
        if (numbers.shape.size() != 2) refuse("tokens", "has shape " + shape_text(numbers.shape), "(T, B)");
        q.steps = numbers.shape[0], q.rows = numbers.shape[1];
        const auto* from = static_cast<const int64_t*>(numbers.data);
        indices.tokens.resize(size_t(numbers.size()) + 1);  // never null, which would mean that there are none
        for (int64_t t = 0; t < q.steps; ++t)
            for (int64_t b = 0; b < q.rows; ++b) {
                int64_t& token = indices.tokens[size_t(t * q.rows + b)];
                token = from[t * numbers.stride[0] + b * numbers.stride[1]];
                if (token < 0 || token >= q.table_rows)
                    refuse("tokens", "has " + std::to_string(token), "0 to " + std::to_string(q.table_rows - 1));
            }
        q.tokens = indices.tokens.data(), q.tokens_t = q.rows, q.tokens_b = 1;
    }
    const int64_t B = q.rows;
    T* out = sequence<T>(y, "y", {q.steps, B, D * s.P}, q.y_t, q.y_b, writes);
    q.lengths = indices.copy_of(lengths, q.steps, B);
    const bool lstm = s.cell == CellKind::lstm;
    const int64_t length = line_length<T>(s);
    const T* h0_all = dense<T>(h0, "h0", {D, B, s.P});
    const T* c0_all = lstm ? dense<T>(c0, "c0", {D, B, s.H}) : nullptr;
    T* lines_all = dense<T>(lines, "lines", {D, q.steps, B, length});
    q.checkpoint_every = integer(checkpoint_every, "checkpoint_every", 0, int64_t(1) << 40);
    const int64_t kept = q.checkpoints();
    T* c_kept_all = lstm ? dense<T>(c_kept, "c_kept", {D, kept, B, s.H}, kept == 0) : nullptr;
    if (uintptr_t(lines_all) % 64 != 0) refuse("lines", "does not begin at a multiple of 64 bytes", "aligned memory");
    for (int i = 0; i < D; ++i) {
        Direction<T>& d = q.direction[i];
        d.w.w_ih = dense<T>(w[5 * i], "w_ih", {G * s.H, s.I}, false);
        d.w.w_hh = dense<T>(w[5 * i + 1], "w_hh", {G * s.H, s.P}, false);
        d.w.b_ih = dense<T>(w[5 * i + 2], "b_ih", {G * s.H});
        d.w.b_hh = dense<T>(w[5 * i + 3], "b_hh", {G * s.H});
        if (s.projects()) d.w.w_hr = dense<T>(w[5 * i + 4], "w_hr", {s.P, s.H}, false);
        d.reverse = i == 1;
        d.h0 = h0_all ? h0_all + i * B * s.P : nullptr;
        d.c0 = c0_all ? c0_all + i * B * s.H : nullptr;
        d.lines = lines_all ? lines_all + i * q.steps * B * length : nullptr;
        d.c_kept = c_kept_all ? c_kept_all + i * kept * B * s.H : nullptr;
        d.y = out + i * s.P;
    }
    return q;
}

template <class T>
void run_forward(const Shape& s, nb::handle x, nb::handle tokens, nb::handle lengths, nb::handle h0, nb::handle c0, nb::handle weights,
                 nb::handle y, nb::handle h_n, nb::handle c_n, nb::handle lines, int threads, nb::handle checkpoint_every,
                 nb::handle c_kept) {
    Indices indices;
    Sequence<T> q = sequence_of<T>(s, x, tokens, lengths, h0, c0, weights, y, lines, checkpoint_every, c_kept, true, indices);
    T* h = dense<T>(h_n, "h_n", {q.directions, q.rows, s.P});
    T* c = s.cell == CellKind::lstm ? dense<T>(c_n, "c_n", {q.directions, q.rows, s.H}) : nullptr;
    for (int i = 0; i < q.directions; ++i) {
        q.direction[i].h_n = h ? h + i * q.rows * s.P : nullptr;
        q.direction[i].c_n = c ? c + i * q.rows * s.H : nullptr;
    }
    if (q.direction[0].lines) advise_large_pages(q.direction[0].lines, View(lines, "lines").size() * int64_t(sizeof(T)));
    nb::gil_scoped_release release;
    forward(q, threads);
}

template <class T>
void run_backward(const Shape& s, nb::handle x, nb::handle tokens, nb::handle lengths, nb::handle h0, nb::handle c0, nb::handle weights,
                  nb::handle y, nb::handle lines, nb::handle dy, nb::handle dh_n, nb::handle dc_n, nb::handle dx,
                  nb::handle dh0, nb::handle dc0, nb::handle dweights, int threads, nb::handle checkpoint_every,
                  nb::handle c_kept) {
    Indices indices;
    const Sequence<T> q = sequence_of<T>(s, x, tokens, lengths, h0, c0, weights, y, lines, checkpoint_every, c_kept, false, indices);
    if (lines.is_none() == (q.checkpoint_every == 0))
        refuse("lines", lines.is_none() ? "is None" : "is given", "what forward left there, or None with checkpoint_every");
    Gradients<T> g{};
    const int64_t G = s.gates(), D = q.directions, B = q.rows;
    const bool lstm = s.cell == CellKind::lstm;
    const T* dy_all = dy.is_none() ? nullptr : sequence<T>(dy, "dy", {q.steps, B, D * s.P}, g.dy_t, g.dy_b);
    if (q.tokens) g.dx = dense<T>(dx, "dx", {q.table_rows, s.I}), g.dx_b = s.I;
    else if (!dx.is_none()) g.dx = sequence<T>(dx, "dx", {q.steps, B, s.I}, g.dx_t, g.dx_b, true);
    const T* dh_all = dense<T>(dh_n, "dh_n", {D, B, s.P});
    const T* dc_all = lstm ? dense<T>(dc_n, "dc_n", {D, B, s.H}) : nullptr;
    T* dh0_all = dense<T>(dh0, "dh0", {D, B, s.P});
    T* dc0_all = lstm ? dense<T>(dc0, "dc0", {D, B, s.H}) : nullptr;
    const nb::tuple w = tuple_of(dweights, "dweights", size_t(5 * D));
    for (int i = 0; i < D; ++i) {
        DirectionGradients<T>& d = g.direction[i];
        d.dy = dy_all ? dy_all + i * s.P : nullptr;
        d.dh_n = dh_all ? dh_all + i * B * s.P : nullptr;
        d.dc_n = dc_all ? dc_all + i * B * s.H : nullptr;
        d.dh0 = dh0_all ? dh0_all + i * B * s.P : nullptr;
        d.dc0 = dc0_all ? dc0_all + i * B * s.H : nullptr;
        d.dw_ih = dense<T>(w[5 * i], "dw_ih", {G * s.H, s.I});
        d.dw_hh = dense<T>(w[5 * i + 1], "dw_hh", {G * s.H, s.P});
        d.db_ih = dense<T>(w[5 * i + 2], "db_ih", {G * s.H});
        d.db_hh = dense<T>(w[5 * i + 3], "db_hh", {G * s.H});
        if (s.projects()) d.dw_hr = dense<T>(w[5 * i + 4], "dw_hr", {s.P, s.H});
    }
    nb::gil_scoped_release release;
    backward(q, g, threads);
}

// What the passes of a linear recurrence share. b and h are (T, B, width), a too or (width,), states (B, width).
template <class T>
Recurrence<T> recurrence_of(bool is_complex, nb::handle a, nb::handle b, nb::handle lengths, nb::handle resets, nb::handle h0,
                            nb::handle h, bool writes, Indices& indices) {
    Recurrence<T> s{};
    const View shown(h, "h"), factor(a, "a");
    if (shown.shape.size() != 3 || (is_complex && shown.shape[2] % 2))
        refuse("h", "has shape " + shape_text(shown.shape), is_complex ? "(T, B, pairs)" : "(T, B, H)");
    s.steps = shown.shape[0], s.rows = shown.shape[1], s.is_complex = is_complex;
    s.size = is_complex ? shown.shape[2] / 2 : shown.shape[2];
    s.h = sequence<T>(h, "h", shown.shape, s.h_t, s.h_b, writes);
    if (factor.shape.size() == 1) s.a = dense<T>(a, "a", {s.width()}, false);
    else s.a = sequence<T>(a, "a", shown.shape, s.a_t, s.a_b);
    if (!b.is_none()) s.b = sequence<T>(b, "b", shown.shape, s.b_t, s.b_b);
    s.h0 = dense<T>(h0, "h0", {s.rows, s.width()});
    s.resets = dense<uint8_t>(resets, "resets", {s.steps, s.rows});
    s.lengths = indices.copy_of(lengths, s.steps, s.rows);
    return s;
}

template <class T>
void run_scan_forward(bool is_complex, nb::handle a, nb::handle b, nb::handle lengths, nb::handle resets, nb::handle h0,
                      nb::handle h, nb::handle h_n, int threads) {
    Indices indices;
    if (b.is_none()) refuse("b", "is None", "a tensor");
    Recurrence<T> s = recurrence_of<T>(is_complex, a, b, lengths, resets, h0, h, true, indices);
    s.h_n = dense<T>(h_n, "h_n", {s.rows, s.width()});
    nb::gil_scoped_release release;
    scan_forward(s, threads);
}

template <class T>
void run_scan_backward(bool is_complex, nb::handle a, nb::handle lengths, nb::handle resets, nb::handle h0, nb::handle h,
                       nb::handle dh, nb::handle dh_n, nb::handle da, nb::handle db, nb::handle dh0, int threads) {
    Indices indices;
    const Recurrence<T> s = recurrence_of<T>(is_complex, a, nb::none(), lengths, resets, h0, h, false, indices);
    RecurrenceGradients<T> g{};
    const int64_t width = s.width();
    if (!dh.is_none()) g.dh = sequence<T>(dh, "dh", {s.steps, s.rows, width}, g.dh_t, g.dh_b);
    g.dh_n = dense<T>(dh_n, "dh_n", {s.rows, width}), g.dh0 = dense<T>(dh0, "dh0", {s.rows, width});
    const bool shared = View(a, "a").shape.size() == 1;
    if (shared) g.da_row = dense<T>(da, "da", {s.rows, width});
    else g.da = dense<T>(da, "da", {s.steps, s.rows, width});
    g.db = dense<T>(db, "db", {s.steps, s.rows, width});
    nb::gil_scoped_release release;
    scan_backward(s, g, threads);
}

// What the passes of a selective scan share. d, v (T, B, E), B, C (T, B, N), A (N, E); c of a row is N x E, flat.
template <class T>
Selection<T> selection_of(nb::handle d, nb::handle v, nb::handle A, nb::handle B, nb::handle C, nb::handle D,
                          nb::handle lengths, nb::handle resets, nb::handle kept, Indices& indices) {
    const View shown(d, "d"), rates(A, "A");
    if (shown.shape.size() != 3) refuse("d", "has shape " + shape_text(shown.shape), "(T, B, E)");
    if (rates.shape.size() != 2) refuse("A", "has shape " + shape_text(rates.shape), "(N, E)");
    Selection<T> s{};
    s.steps = shown.shape[0], s.rows = shown.shape[1], s.size = shown.shape[2], s.memory = rates.shape[0];
    s.d = sequence<T>(d, "d", {s.steps, s.rows, s.size}, s.d_t, s.d_b);
    s.v = sequence<T>(v, "v", {s.steps, s.rows, s.size}, s.v_t, s.v_b);
    s.A = dense<T>(A, "A", {s.memory, s.size}, false);
    s.B = sequence<T>(B, "B", {s.steps, s.rows, s.memory}, s.B_t, s.B_b);
    s.C = sequence<T>(C, "C", {s.steps, s.rows, s.memory}, s.C_t, s.C_b);
    s.D = dense<T>(D, "D", {s.size});
    s.resets = dense<uint8_t>(resets, "resets", {s.steps, s.rows});
    s.lengths = indices.copy_of(lengths, s.steps, s.rows);
    const int64_t chunks = (s.steps + selection_chunk - 1) / selection_chunk;
    s.kept = dense<T>(kept, "kept", {chunks, s.rows, s.memory * s.size});
    return s;
}

template <class T>
void run_selection_forward(nb::handle d, nb::handle v, nb::handle A, nb::handle B, nb::handle C, nb::handle D,
                           nb::handle c0, nb::handle lengths, nb::handle resets, nb::handle y, nb::handle c_n, nb::handle kept, int threads) {
    Indices indices;
    Selection<T> s = selection_of<T>(d, v, A, B, C, D, lengths, resets, kept, indices);
    s.c0 = dense<T>(c0, "c0", {s.rows, s.memory * s.size});
    s.y = dense<T>(y, "y", {s.steps, s.rows, s.size}, false);
    s.c_n = dense<T>(c_n, "c_n", {s.rows, s.memory * s.size}, false);
    nb::gil_scoped_release release;
    selection_forward(s, threads);
}

template <class T>
void run_selection_backward(nb::handle d, nb::handle v, nb::handle A, nb::handle B, nb::handle C, nb::handle D,
                            nb::handle lengths, nb::handle resets, nb::handle kept, nb::handle dy, nb::handle dc_n,
                            nb::handle dd, nb::handle dv, nb::handle dA, nb::handle dB, nb::handle dC, nb::handle dD,
                            nb::handle dc0, int threads) {
    Indices indices;
    const Selection<T> s = selection_of<T>(d, v, A, B, C, D, lengths, resets, kept, indices);
    if (!s.kept) refuse("kept", "is None", "what forward left there");
    SelectionGradients<T> g{};
    const std::vector<int64_t> state{s.rows, s.memory * s.size}, sequences{s.steps, s.rows, s.size}, sums{s.tiles(), s.steps, s.rows, s.memory};
    if (!dy.is_none()) g.dy = sequence<T>(dy, "dy", sequences, g.dy_t, g.dy_b);
    g.dc_n = dense<T>(dc_n, "dc_n", state);
    g.dd = dense<T>(dd, "dd", sequences, false), g.dv = dense<T>(dv, "dv", sequences, false);
    g.dA = dense<T>(dA, "dA", state, false), g.dc0 = dense<T>(dc0, "dc0", state, false);
    g.dD = dense<T>(dD, "dD", {s.rows, s.size}, !s.D);
    g.dB = dense<T>(dB, "dB", sums, false), g.dC = dense<T>(dC, "dC", sums, false);
    nb::gil_scoped_release release;
    selection_backward(s, g, threads);
}

template <class T>
void run_lattice(nb::handle log_p, nb::handle lengths, nb::handle label_lengths, nb::handle losses, nb::handle gradients,
                 int threads) {
    const View shown(log_p, "log_p");
    if (shown.shape.size() != 4 || shown.shape[2] < 1 || shown.shape[3] != 2)
        refuse("log_p", "has shape " + shape_text(shown.shape), "(B, T, U + 1, 2)");
    Indices frames, labels;
    Lattice<T> l{};
    l.rows = shown.shape[0], l.frames = shown.shape[1], l.labels = shown.shape[2] - 1;
    l.log_p = dense<T>(log_p, "log_p", shown.shape, false);
    l.lengths = frames.copy_of(lengths, l.frames, l.rows);
    l.label_lengths = labels.copy_of(label_lengths, l.labels, l.rows, "label_lengths");
    l.losses = dense<T>(losses, "losses", {l.rows}, false);
    l.gradients = dense<T>(gradients, "gradients", shown.shape);
    nb::gil_scoped_release release;
    lattice(l, threads);
}

template <class T>
void run_convolution(nb::handle x, nb::handle kernel, nb::handle bias, nb::handle y, int threads) {
    const View in(x, "x"), weights(kernel, "kernel");
    if (in.shape.size() != 3) refuse("x", "has shape " + shape_text(in.shape), "(T + k - 1, B, E)");
    if (weights.shape.size() != 2 || weights.shape[0] < 1) refuse("kernel", "has shape " + shape_text(weights.shape), "(k, E)");
    Convolution<T> c{};
    c.rows = in.shape[1], c.size = in.shape[2], c.window = weights.shape[0], c.steps = in.shape[0] - c.window + 1;
    if (c.steps < 0) refuse("x", "has " + std::to_string(in.shape[0]) + " steps", "k - 1 or more");
    c.x = sequence<T>(x, "x", in.shape, c.x_t, c.x_b);
    c.kernel = dense<T>(kernel, "kernel", {c.window, c.size}, false), c.bias = dense<T>(bias, "bias", {c.size});
    c.y = dense<T>(y, "y", {c.steps, c.rows, c.size}, false);
    if (c.steps * c.rows * c.size == 0) return;
    nb::gil_scoped_release release;
    convolution(c, threads);
}

template <class T>
void run_convolution_backward(nb::handle x, nb::handle kernel, nb::handle dy, nb::handle dx, nb::handle dkernel,
                              nb::handle dbias, int threads) {
    const View in(x, "x"), weights(kernel, "kernel");
    Convolution<T> c{};
    if (in.shape.size() != 3 || weights.shape.size() != 2 || weights.shape[0] < 1 || in.shape[0] < weights.shape[0] - 1)
        refuse("x", "has shape " + shape_text(in.shape), "that of forward");
    c.rows = in.shape[1], c.size = in.shape[2], c.window = weights.shape[0], c.steps = in.shape[0] - c.window + 1;
    c.x = sequence<T>(x, "x", in.shape, c.x_t, c.x_b);
    c.kernel = dense<T>(kernel, "kernel", {c.window, c.size}, false);
    c.dy = dense<T>(dy, "dy", {c.steps, c.rows, c.size}, false), c.dx = dense<T>(dx, "dx", in.shape, false);
    c.dkernel = dense<T>(dkernel, "dkernel", {c.window, c.size}, false), c.dbias = dense<T>(dbias, "dbias", {c.size});
    nb::gil_scoped_release release;
    convolution(c, threads);
}

template <class T>
void run_product(nb::handle x, nb::handle weight, nb::handle bias, nb::handle y, int threads) {
    const View in(x, "x"), matrix(weight, "weight");
    if (in.shape.size() != 2) refuse("x", "has shape " + shape_text(in.shape), "(N, I)");
    Product<T> p{};
    p.rows = in.shape[0], p.k = in.shape[1], p.columns = matrix.shape.empty() ? 0 : matrix.shape[0];
    p.x = dense<T>(x, "x", {p.rows, p.k}, false);
    p.weight = dense<T>(weight, "weight", {p.columns, p.k}, false);
    p.bias = dense<T>(bias, "bias", {p.columns});
    p.y = dense<T>(y, "y", {p.rows, p.columns}, false);
    if (p.rows == 0 || p.columns == 0) return;
    nb::gil_scoped_release release;
    product(p, threads);
}

template <class T> void run_map(Function function, nb::handle x, nb::handle y, nb::handle dy, int threads) {
    const View in(x, "x");
    if (in.shape.size() != 2) refuse("x", "has shape " + shape_text(in.shape), "(N, features)");
    check<T>(in, "x", in.shape);
    const int64_t rows = in.shape[0], columns = in.shape[1];
    if (in.stride[1] != 1 && columns > 1 && in.size() > 0)
        refuse("x", "has strides " + shape_text(in.stride), "its last axis to be contiguous");
    Map<T> m{function, rows, columns, in.stride[0], static_cast<const T*>(in.data), dense<T>(y, "y", in.shape, false),
             dense<T>(dy, "dy", in.shape)};
    if (in.contiguous()) m.rows = 1, m.columns = rows * columns;
    if (in.size() == 0) return;
    nb::gil_scoped_release release;
    map(m, threads);
}

// Thirteen numbers each: function, n, base and place of `to`, and base, place and step of each source.
std::vector<Element> elements_of(const std::vector<int64_t>& numbers) {
    std::vector<Element> found;
    for (const int64_t* n = numbers.data(), *end = n + numbers.size() / 13 * 13; n < end; n += 13)
        found.push_back({ElementFunction(n[0]), n[1], {Base(n[2]), n[3]},
                         {{Base(n[4]), n[5]}, {Base(n[7]), n[8]}, {Base(n[10]), n[11]}}, {n[6], n[9], n[12]}});
    return found;
}

// `elements`: see elements_of. `tensors`: (N, features), rows of numbers side by side, of which the
// first `inputs` are read, the others written; then `vectors`, whose numbers stand one behind another.
template <class T>
void run_elements(const std::vector<Element>& elements, int64_t scratch, const nb::tuple& tensors, const nb::tuple& vectors, int threads) {
    Tape<T> tape{};
    tape.count = int64_t(elements.size()), tape.element = elements.data(), tape.scratch = scratch;
    int64_t widths[bases] = {scratch}, known = 0;
    int b = 1;
    for (nb::handle each : tensors) {
        if (b == bases) refuse("tensors", "has too many", "at the most " + std::to_string(bases - 1));
        const View view(each, "tensors");
        check<T>(view, "tensors", view.shape);
        if (view.shape.size() != 2 || (view.stride[1] != 1 && view.shape[1] > 1)) refuse("tensors", "has another layout", "(N, features), rows side by side");
        if (b > 1 && view.shape[0] != tape.rows) refuse("tensors", "has unequal rows", std::to_string(tape.rows));
        tape.rows = view.shape[0], tape.tensor[b] = static_cast<T*>(view.data), tape.stride[b] = view.stride[0], widths[b++] = view.shape[1];
    }
    std::vector<T> numbers;
    for (nb::handle each : vectors) {
        const View view(each, "vectors");
        check<T>(view, "vectors", view.shape);
        if (!view.contiguous()) refuse("vectors", "has another layout", "contiguous tensors");
        const T* from = static_cast<const T*>(view.data);
        numbers.insert(numbers.end(), from, from + view.size());
    }
    known = int64_t(numbers.size()), tape.vectors = numbers.data();
    auto reaches = [&](const Place& p, int64_t n) {
        if (int(p.base) < 0 || int(p.base) > bases || p.at < 0 || p.at + n > (p.base == Base::count ? known : widths[int(p.base)]))
            refuse("elements", "name numbers that there are not", "those of the tensors");
    };
    for (const Element& e : elements) {
        if (e.to.base == Base::count) refuse("elements", "write vectors", "scratch or a tensor");
        reaches(e.to, e.n);
        for (int k = 0; k < 3; ++k) reaches(e.from[k], e.step[k] ? e.n : 1);
    }
    if (tape.rows == 0) return;
    nb::gil_scoped_release release;
    run_tape(tape, threads);
}

// Whether PyTorch has yet to negate the numbers of a tensor.
bool is_negated(nb::handle tensor) {
    const nb::object negated = nb::steal(PyObject_CallMethodObjArgs(tensor.ptr(), names().is_neg, nullptr));
    if (!negated.is_valid()) throw nb::python_error();
    return negated.ptr() != Py_False;
}

// Whether the core can read tensors as they lie: the numbers of a step of the first side by side, or
// all of it where it is a table, and all of the others; and none that PyTorch has yet to negate.
bool are_readable(const nb::args& tensors) {
    bool first = true;
    for (nb::handle tensor : tensors) {
        const bool is_sequence = std::exchange(first, false);
        if (tensor.is_none()) continue;
        if (is_negated(tensor)) return false;
        const View view(tensor, "tensors");
        if (is_sequence && view.shape.size() == 3 ? view.stride[2] != 1 && view.shape[2] != 1 : !view.contiguous())
            return false;
    }
    return true;
}

// Calls f<float> or f<double>, by the type of x.
template <class F> void by_type(nb::handle x, const char* name, F&& f) {
    const View view(x, name);
    if (view.dtype == names().float32) f(float());
    else if (view.dtype == names().float64) f(double());
    else refuse(name, std::string("has dtype ") + nb::str(nb::handle(view.dtype)).c_str(), "torch.float32 or torch.float64");
}

// A program with its tables, see program.hpp; each table is a list of whole numbers in the order of its struct.
class PyProgram {
public:
    using Numbers = std::vector<int64_t>;

    // `sizes`: those of Program, from `input` to `output`, then from `state_length` to `vectors`; `states`: size
    // and place of each tensor of the state; `operations`: seven numbers each, of each phase; `elements`: see
    // elements_of. `pieces`: of each tensor, and of each result, which of those given has it, where it begins and how
    // long it is; or nothing, where they are given themselves.
    PyProgram(bool doubles, const Numbers& sizes, const Numbers& states, const std::vector<Numbers>& operations,
              const Numbers& matrices, const Numbers& vectors, const Numbers& sums, double work,
              const std::vector<Numbers>& pieces, const Numbers& elements)
        : doubles_(doubles) {
        if (sizes.size() != 11 || operations.size() != 4 || int64_t(states.size()) != 2 * sizes[1])
            refuse("sizes", "has " + std::to_string(sizes.size()) + " entries", "11");
        for (size_t i = 0; i < states.size(); i += 2) state_size_.push_back(states[i]), state_at_.push_back(states[i + 1]);
        for (int phase = 0; phase < 4; ++phase)
            for (const int64_t* n = operations[size_t(phase)].data(), *end = n + operations[size_t(phase)].size(); n < end; n += 7)
                operations_[phase].push_back({reinterpret_cast<const void*>(n[0]), n[1], {Base(n[2]), n[3]}, {Base(n[4]), n[5]}, n[6]});
        for (size_t i = 0; i < matrices.size(); i += 6)
            matrices_.push_back({matrices[i], matrices[i + 1], matrices[i + 2], matrices[i + 3], matrices[i + 4], matrices[i + 5]});
        for (size_t i = 0; i < vectors.size(); i += 3) vectors_.push_back({vectors[i], vectors[i + 1], vectors[i + 2]});
        for (const int64_t* n = sums.data(), *end = n + sums.size(); n < end; n += 15)
            sums_.push_back({{Base(n[0]), n[1]}, n[2], n[3], {{Base(n[4]), n[5]}, {Base(n[6]), n[7]}}, {n[8], n[9]}, {n[10], n[11]}, n[12],
                             {Base(n[13]), n[14]}});
        elements_ = elements_of(elements);
        for (size_t k = 0; k < pieces.size() && k < 2; ++k)
            for (size_t i = 0; i < pieces[k].size(); i += 3)
                pieces_[k].push_back({pieces[k][i], pieces[k][i + 1], pieces[k][i + 2]});
        program_ = {sizes[0], sizes[1], sizes[2], state_size_.data(), state_at_.data(), sizes[3], sizes[4],
                    sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10],
                    {}, {}, matrices_.data(), int64_t(matrices_.size()), vectors_.data(), int64_t(vectors_.size()),
                    sums_.data(), int64_t(sums_.size()), work, elements_.data()};
        for (int phase = 0; phase < 4; ++phase) {
            program_.operations[phase] = operations_[phase].data();
            program_.count[phase] = int64_t(operations_[phase].size());
        }
    }
    PyProgram(const PyProgram&) = delete;

    const Program& program() const { return program_; }
    bool doubles() const { return doubles_; }

    // The numbers of the tensors that the program reads, which must be as many as it expects.
    template <class T> std::vector<const T*> places(nb::handle tensors) const {
        const std::vector<Span<T>> spans = spans_of<T>(tensors, "tensors", pieces_[0]);
        auto reaches = [&](int64_t tensor, int64_t n) {
            if (tensor < 0 || tensor >= int64_t(spans.size()) || n > spans[size_t(tensor)].n)
                refuse("tensors", "has too few numbers", "those of the program");
        };
        for (const Matrix& m : matrices_)
            reaches(m.tensor, m.offset + (m.k - 1) * m.k_stride + (m.n - 1) * m.n_stride + 1);
        for (const Vector& v : vectors_) reaches(v.tensor, v.n);
        std::vector<const T*> found;
        for (const Span<T>& each : spans) found.push_back(each.data);
        return found;
    }

    void forward(nb::handle x, nb::handle lengths, nb::handle tensors, nb::handle state, bool reverse, nb::handle y,
                 nb::handle last, nb::handle lines, nb::handle threads) const {
        by_type(x, "x", [&](auto zero) {
            using T = decltype(zero);
            Call<T> call(*this, x, lengths, tensors, state, reverse, lines);
            ProgramCall<T>& c = call.c;
            c.y = sequence<T>(y, "y", {c.steps, c.rows, state_size_[size_t(program_.output)]}, c.y_t, c.y_b, true);
            const auto to = call.states(last, "last", false);
            c.last = to.data();
            if (c.lines) advise_large_pages(c.lines, c.steps * c.rows * program_.line * int64_t(sizeof(T)));
            run(c, false, threads);
        });
    }
    void backward(nb::handle x, nb::handle lengths, nb::handle tensors, nb::handle state, bool reverse, nb::handle lines,
                  nb::handle dy, nb::handle d_last, nb::handle dx, nb::handle d_state, nb::handle results,
                  nb::handle threads) const {
        by_type(x, "x", [&](auto zero) {
            using T = decltype(zero);
            Call<T> call(*this, x, lengths, tensors, state, reverse, lines);
            ProgramCall<T>& c = call.c;
            if (!c.lines) refuse("lines", "is None", "what forward left there");
            if (!dy.is_none())
                c.dy = sequence<T>(dy, "dy", {c.steps, c.rows, state_size_[size_t(program_.output)]}, c.dy_t, c.dy_b);
            if (!dx.is_none()) c.dx = sequence<T>(dx, "dx", {c.steps, c.rows, program_.input}, c.dx_t, c.dx_b, true);
            const auto from = call.states(d_last, "d_last", true), to = call.states(d_state, "d_state", true);
            c.d_last = from.data(), c.d_state = to.data();
            std::vector<int64_t> needed;  // numbers of each result
            auto needs = [&](int64_t result, int64_t n) {
                if (result < 0) return;
                if (needed.size() <= size_t(result)) needed.resize(size_t(result) + 1);
                needed[size_t(result)] = n;
            };
            for (const Sum& sum : sums_) {
                for (int64_t s = 0; s < sum.sources; ++s) needs(sum.to[s], sum.rows * sum.columns[s]);
                needs(sum.sum_to, sum.rows);
            }
            const std::vector<Span<T>> spans = spans_of<T>(results, "results", pieces_[1]);
            std::vector<T*> places;
            for (size_t i = 0; i < needed.size(); ++i) {
                if (i >= spans.size() || spans[i].n != needed[i]) refuse("results", "are others", "those of the program");
                places.push_back(spans[i].data);
            }
            c.results = places.data();
            run(c, true, threads);
        });
    }

private:
    struct Piece {
        int64_t of, at, n;
    };
    template <class T> struct Span {
        T* data;
        int64_t n;
    };
    // The numbers of contiguous tensors, or of pieces of them; None has none.
    template <class T>
    static std::vector<Span<T>> spans_of(nb::handle tensors, const char* name, const std::vector<Piece>& pieces) {
        std::vector<Span<T>> whole, found;
        for (nb::handle each : tuple_of(tensors, name, 0)) {
            if (each.is_none()) {
                whole.push_back({nullptr, 0});
                continue;
            }
            const View view(each, name);
            if (view.dtype != dtype_of<T>() || !view.contiguous())
                refuse(name, "has another dtype or layout", "contiguous tensors like x");
            whole.push_back({static_cast<T*>(view.data), view.size()});
        }
        if (pieces.empty()) return whole;
        for (const Piece& p : pieces) {
            if (p.of < 0 || p.of >= int64_t(whole.size()) || p.at < 0 || p.at + p.n > whole[size_t(p.of)].n)
                refuse(name, "has too few numbers", "those of the program");
            found.push_back({whole[size_t(p.of)].data + p.at, p.n});
        }
        return found;
    }
    template <class T> static T* aligned(nb::handle tensor, const char* name, const Sizes& shape) {
        T* const p = dense<T>(tensor, name, shape);
        if (uintptr_t(p) % 64 != 0) refuse(name, "does not begin at a multiple of 64 bytes", "aligned memory");
        return p;
    }
    // What both passes are given.
    template <class T> struct Call {
        ProgramCall<T> c;
        std::vector<const T*> tensors, before;
        std::vector<int64_t> lengths;

        Call(const PyProgram& p, nb::handle x, nb::handle rows, nb::handle weights, nb::handle state, bool reverse,
             nb::handle lines)
            : c{p.program_, 0, 0, reverse, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}} {
            if (p.doubles_ != (sizeof(T) == 8)) refuse("x", "has another dtype", "that of the program");
            const View input(x, "x");
            if (input.shape.size() != 3)
                refuse("x", "has shape " + shape_text(input.shape), "(T, B, " + std::to_string(p.program_.input) + ")");
            c.steps = input.shape[0], c.rows = input.shape[1];
            c.x = sequence<T>(x, "x", {c.steps, c.rows, p.program_.input}, c.x_t, c.x_b);
            if (!rows.is_none()) {
                const int64_t* from = dense<int64_t>(rows, "lengths", {c.rows}, false);
                lengths.assign(from, from + c.rows);
                for (int64_t n : lengths)
                    if (n < 0 || n > c.steps) refuse("lengths", "has " + std::to_string(n), "0 to " + std::to_string(c.steps));
                lengths.push_back(0);  // never null
                c.lengths = lengths.data();
            }
            tensors = p.places<T>(weights);
            c.tensors = tensors.data();
            for (T* each : states(state, "state", true)) before.push_back(each);
            c.state = before.data();
            c.lines = aligned<T>(lines, "lines", {c.steps, c.rows, p.program_.line});
        }
        std::vector<T*> states(nb::handle of, const char* name, bool optional) const {
            const Program& p = c.program;
            const nb::tuple each = tuple_of(of, name, size_t(p.states));
            std::vector<T*> to;
            for (int64_t s = 0; s < p.states; ++s) to.push_back(dense<T>(each[size_t(s)], name, {c.rows, p.state_size[s]}, optional));
            return to;
        }
    };
    template <class T> static void run(const ProgramCall<T>& c, bool backward, nb::handle threads) {
        const int n = int(integer(threads, "threads", 1, 1 << 15));
        nb::gil_scoped_release release;
        run_program(c, backward, n);
    }

    bool doubles_;
    Program program_;
    std::vector<int64_t> state_size_, state_at_;
    std::vector<Operation> operations_[4];
    std::vector<Matrix> matrices_;
    std::vector<Vector> vectors_;
    std::vector<Sum> sums_;
    std::vector<Element> elements_;
    std::vector<Piece> pieces_[2];  // of tensors, of results
};

// What something with Python's buffer protocol shows, if it does.
struct Buffer {
    Py_buffer show = {};
    bool is_one = false;

    Buffer() = default;
    Buffer(nb::handle object, int flags)
        : is_one(!names().is_plain_tensor(object) && PyObject_GetBuffer(object.ptr(), &show, flags | PyBUF_FORMAT) == 0) {
        if (!is_one) PyErr_Clear();
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        if (is_one) PyBuffer_Release(&show);
    }
    void swap(Buffer& other) { std::swap(show, other.show), std::swap(is_one, other.is_one); }
    std::string text() const {
        return "has format '" + std::string(show.format ? show.format : "") + "' and shape " +
               shape_text(std::vector<int64_t>(show.shape, show.shape + show.ndim));
    }
};

// The NumPy array of a caller who gives the same one at each step: its memory is asked for once. NumPy
// moves no memory of an array that another holds.
class Kept {
public:
    void* find(nb::handle array) const { return array_.ptr() == array.ptr() ? buffer_.show.buf : nullptr; }
    void keep(nb::handle array, Buffer& buffer) {
        buffer_.swap(buffer);
        array_ = nb::borrow(array);
    }

private:
    nb::object array_;
    Buffer buffer_;
};

// A stream with the array that its outputs are put into.
class PyStream {
public:
    // `shapes` and `weights` (five of each layer), from the first layer to the last. `array` is a NumPy
    // array and `tensor` a tensor over the same memory, (rows, P): a step returns a copy of the one or the
    // other, as its input is.
    PyStream(nb::handle shapes, nb::handle weights, nb::handle rows, nb::handle precision, nb::handle threads,
             nb::handle array, nb::handle tensor) {
        const nb::tuple each = tuple_of(shapes, "shapes", 0), flat = tuple_of(weights, "weights", 5 * nb::len(each));
        if (nb::len(each) == 0) refuse("shapes", "has no entries", "at least one layer");
        std::vector<Shape> all;
        for (nb::handle shape : each) all.push_back(shape_of(shape));
        for (size_t i = 1; i < all.size(); ++i)
            if (all[i].I != all[i - 1].P)
                refuse("shapes", "has a layer that takes " + std::to_string(all[i].I), std::to_string(all[i - 1].P));
        rows_ = integer(rows, "rows", 1, int64_t(1) << 31), input_ = all.front().I, output_ = all.back().P;
        const Precision how = Precision(integer(precision, "precision", 0, 3));
        threads_ = int(integer(threads, "threads", 1, 1 << 15));
        const View first(flat[0], "weights");
        if (first.dtype == names().float64) {
            if (how != Precision::full) refuse("precision", "is int8 for torch.float64", "torch.float32 weights");
            doubles_ = build<double>(all, flat, how);
        } else {
            floats_ = build<float>(all, flat, how);
        }
        take_output(array, tensor);
    }
    // A stack of programs, and of each the tensors that it reads.
    PyStream(nb::handle programs, nb::handle tensors, nb::handle rows, nb::handle array, nb::handle tensor)
        : programs_(nb::borrow(programs)) {
        const nb::tuple each = tuple_of(programs, "programs", 0), of_each = tuple_of(tensors, "tensors", nb::len(each));
        if (nb::len(each) == 0) refuse("programs", "has no entries", "at least one layer");
        std::vector<const PyProgram*> all;
        for (nb::handle program : each) all.push_back(nb::cast<const PyProgram*>(program));
        rows_ = integer(rows, "rows", 1, int64_t(1) << 31), input_ = all.front()->program().input;
        const Program& last = all.back()->program();
        output_ = last.state_size[last.output];
        if (all.front()->doubles()) doubles_ = build_programs<double>(all, of_each);
        else floats_ = build_programs<float>(all, of_each);
        take_output(array, tensor);
    }
    PyStream(const PyStream& other, nb::handle array, nb::handle tensor)
        : programs_(other.programs_), rows_(other.rows_), input_(other.input_), output_(other.output_), threads_(other.threads_) {
        other.check_idle();
        if (other.floats_) floats_ = std::make_unique<Stream<float>>(*other.floats_);
        else doubles_ = std::make_unique<Stream<double>>(*other.doubles_);
        take_output(array, tensor);
    }
    PyStream(const PyStream&) = delete;
    ~PyStream() { PyBuffer_Release(&memory_); }

    nb::object step(nb::handle x, nb::handle out) {
        check_idle();
        const void* from = last_x_.find(x);
        bool is_array = from;
        if (!from) {
            Buffer in(x, PyBUF_STRIDES);
            is_array = in.is_one;
            from = is_array ? row_of(in) : row_of(x);
            if (is_array && from == in.show.buf) keep(last_x_, x, in);
        }
        if (out.is_none()) {
            run(from, 1, memory_.buf);
            PyObject* y = PyObject_CallMethodObjArgs((is_array ? array_ : tensor_).ptr(),
                                                     is_array ? names().copy : names().clone, nullptr);
            if (!y) throw nb::python_error();
            return nb::steal(y);
        }
        void* to = last_out_.find(out);
        if (!to) to = place_of(out);
        run(from, 1, to);
        return nb::borrow(out);
    }
    void chunk(nb::handle x, nb::handle y) {
        check_idle();
        floats_ ? chunk_of<float>(x, y) : chunk_of<double>(x, y);
    }
    int64_t state_size() const { return floats_ ? floats_->state_size() : doubles_->state_size(); }
    void save(nb::handle to) const {
        check_idle();
        if (floats_) floats_->save(dense<float>(to, "state", {state_size()}, false));
        else doubles_->save(dense<double>(to, "state", {state_size()}, false));
    }
    void load(nb::handle from) {
        check_idle();
        if (floats_) floats_->load(dense<float>(from, "state", {state_size()}, false));
        else doubles_->load(dense<double>(from, "state", {state_size()}, false));
    }
    void reset() {
        check_idle();
        floats_ ? floats_->reset() : doubles_->reset();
    }

private:
    std::string type() const { return floats_ ? "float32" : "float64"; }
    size_t width() const { return floats_ ? sizeof(float) : sizeof(double); }
    bool holds_numbers(const Buffer& buffer) const {
        const char* format = buffer.show.format;
        return format && format[0] == (floats_ ? 'f' : 'd') && !format[1] && uintptr_t(buffer.show.buf) % width() == 0;
    }
    std::string expected() const {
        const std::string one = rows_ == 1 ? "(" + std::to_string(input_) + ",) or " : "";
        return "an array or tensor of " + type() + " of shape " + one + "(" + std::to_string(rows_) + ", " +
               std::to_string(input_) + ")";
    }
    // The numbers of a step one after another: where they lie, or copied.
    const void* row_of(const Buffer& x) {
        if (!holds_numbers(x) || !is_input(x.show.ndim, x.show.shape)) refuse("x", x.text(), expected());
        if (PyBuffer_IsContiguous(&x.show, 'C')) return x.show.buf;
        row_.resize(size_t(x.show.len));
        if (PyBuffer_ToContiguous(row_.data(), &x.show, x.show.len, 'C') != 0) throw nb::python_error();
        return row_.data();
    }
    const void* row_of(nb::handle x) {
        const View view(x, "x");
        if (view.dtype != (floats_ ? names().float32 : names().float64) || is_negated(x) ||
            !is_input(int(view.shape.size()), view.shape.data))
            refuse("x", "has shape " + shape_text(view.shape) + " and dtype " + nb::str(nb::handle(view.dtype)).c_str() +
                            (is_negated(x) ? " and is negated" : ""), expected());
        if (view.contiguous()) return view.data;
        const int64_t b_stride = view.shape.size() == 2 ? view.stride[0] : 0, i_stride = view.stride[view.stride.size() - 1];
        row_.resize(size_t(rows_ * input_) * width());
        char* to = row_.data();
        for (int64_t b = 0; b < rows_; ++b)
            for (int64_t i = 0; i < input_; ++i, to += width())
                std::memcpy(to, static_cast<const char*>(view.data) + size_t(b * b_stride + i * i_stride) * width(), width());
        return row_.data();
    }
    void* place_of(nb::handle out) {
        Buffer to(out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
        const std::vector<int64_t> shape(memory_.shape, memory_.shape + memory_.ndim);
        if (!to.is_one) {
            void* const place = floats_ ? static_cast<void*>(dense<float>(out, "out", shape, false)) : dense<double>(out, "out", shape, false);
            if (is_negated(out)) refuse("out", "is negated", "plain numbers");
            return place;
        }
        if (!holds_numbers(to) || Sizes(shape) != Sizes(to.show.shape, size_t(to.show.ndim)))
            refuse("out", to.text(), "writable contiguous " + type() + " of shape " + shape_text(shape));
        void* const place = to.show.buf;
        keep(last_out_, out, to);
        return place;
    }
    void keep(Kept& kept, nb::handle array, Buffer& buffer) const {
        if (Py_TYPE(array.ptr()) == Py_TYPE(array_.ptr())) kept.keep(array, buffer);
    }
    template <class N> bool is_input(int ndim, const N* shape) const {
        if (ndim == 1) return rows_ == 1 && shape[0] == input_;
        return ndim == 2 && shape[0] == rows_ && shape[1] == input_;
    }
    void check_idle() const {
        if (busy_) refuse("stream", "is at work in another thread", "one thread at a time");
    }
    void run(const void* x, int64_t steps, void* y) {
        if (floats_) floats_->run(static_cast<const float*>(x), steps, static_cast<float*>(y), threads_);
        else doubles_->run(static_cast<const double*>(x), steps, static_cast<double*>(y), threads_);
    }
    template <class T> void chunk_of(nb::handle x, nb::handle y) {
        const View input(x, "x");
        const int64_t steps = input.shape.size() == 3 ? input.shape[0] : 0;
        const T* from = dense<T>(x, "x", {steps, rows_, input_}, false);
        T* to = dense<T>(y, "y", {steps, rows_, output_}, false);
        busy_ = true;
        {
            nb::gil_scoped_release release;
            run(from, steps, to);
        }
        busy_ = false;
    }
    template <class T>
    std::unique_ptr<Stream<T>> build_programs(const std::vector<const PyProgram*>& all, const nb::tuple& tensors) {
        std::vector<const Program*> programs;
        std::vector<std::vector<const T*>> places;
        for (size_t i = 0; i < all.size(); ++i) {
            if (all[i]->doubles() != (sizeof(T) == 8)) refuse("programs", "have several dtypes", "one");
            programs.push_back(&all[i]->program());
            places.push_back(all[i]->places<T>(tensors[i]));
        }
        return std::make_unique<Stream<T>>(programs, places, rows_);
    }
    template <class T>
    std::unique_ptr<Stream<T>> build(const std::vector<Shape>& shapes, const nb::tuple& flat, Precision how) {
        std::vector<Weights<T>> weights;
        for (size_t i = 0; i < shapes.size(); ++i) {
            const Shape& s = shapes[i];
            const int64_t rows = s.gates() * s.H;
            weights.push_back({dense<T>(flat[5 * i], "w_ih", {rows, s.I}, false),
                               dense<T>(flat[5 * i + 1], "w_hh", {rows, s.P}, false),
                               dense<T>(flat[5 * i + 2], "b_ih", {rows}), dense<T>(flat[5 * i + 3], "b_hh", {rows}),
                               s.projects() ? dense<T>(flat[5 * i + 4], "w_hr", {s.P, s.H}, false) : nullptr});
        }
        return std::make_unique<Stream<T>>(shapes, weights, rows_, how);
    }
    void take_output(nb::handle array, nb::handle tensor) {
        if (PyObject_GetBuffer(array.ptr(), &memory_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) != 0) {
            PyErr_Clear();
            memory_ = {};
            refuse("array", "is not writable contiguous memory", "a NumPy array");
        }
        if (!memory_.format || memory_.format[0] != (floats_ ? 'f' : 'd') || memory_.len != rows_ * output_ * memory_.itemsize)
            refuse("array", "is not of this size and type", "(rows, P) numbers like the weights");
        array_ = nb::borrow(array), tensor_ = nb::borrow(tensor);
    }

    nb::object programs_;  // which the streams only refer to
    std::unique_ptr<Stream<float>> floats_;
    std::unique_ptr<Stream<double>> doubles_;
    int64_t rows_ = 0, input_ = 0, output_ = 0;
    int threads_ = 1;
    Py_buffer memory_ = {};
    nb::object array_, tensor_;
    Kept last_x_, last_out_;
    std::vector<char> row_;  // room for an input whose numbers do not lie side by side
    bool busy_ = false;  // read and written with the GIL held
};

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "The compiled core of Ostinato.";
    nb::set_leak_warnings(false);  // programs live as long as the process
    m.def("version", &version, "The version of the package that this core was built for.");
    m.def("instruction_set", &instruction_set,
          "The instruction set that the core runs with on this CPU.\n\n"
          "Raises ValueError where the environment variable OSTINATO_ISA names one that it\n"
          "cannot run with.");
    m.def("int8_products", &int8_products,
          "How int8 streams multiply on this CPU: 'dot', 'native' or 'portable'.");
    m.def("peak_flops", &peak_flops, nb::arg("seconds") = 0.02, nb::call_guard<nb::gil_scoped_release>(),
          "Floating-point operations a second that the calling thread can do in float32.\n\n"
          "On registers alone, on the average of so many seconds; several threads can call it at\n"
          "the same time.");
    m.def("line_length", [](nb::handle shape, bool doubles) {
              const Shape s = shape_of(shape);
              return doubles ? line_length<double>(s) : line_length<float>(s);
          }, nb::arg("shape").none(), nb::arg("doubles"), "Numbers in a line of what backward needs of forward.");
    m.def("gate_at", [](nb::handle shape, bool doubles, int gate) {
              const Shape s = shape_of(shape);
              return doubles ? gate_at<double>(s, gate) : gate_at<float>(s, gate);
          }, nb::arg("shape").none(), nb::arg("doubles"), nb::arg("gate"), "Where a line holds a gate, or after the gates c.");
    m.def("are_readable", &are_readable, nb::arg("tensors"),
          "Whether forward and backward can read tensors without a copy: a sequence or table, then others.");
    m.def("forward",
          [](nb::handle shape, nb::handle x, nb::handle lengths, nb::handle h0, nb::handle c0, nb::handle weights,
             nb::handle y, nb::handle h_n, nb::handle c_n, nb::handle lines, nb::handle threads, nb::handle tokens,
             nb::handle checkpoint_every, nb::handle c_kept) {
              const Shape s = shape_of(shape);
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(x, "x", [&](auto zero) {
                  run_forward<decltype(zero)>(s, x, tokens, lengths, h0, c0, weights, y, h_n, c_n, lines, n,
                                              checkpoint_every, c_kept);
              });
          },
          nb::arg("shape").none(), nb::arg("x").none(), nb::arg("lengths").none(), nb::arg("h0").none(),
          nb::arg("c0").none(), nb::arg("weights").none(), nb::arg("y").none(), nb::arg("h_n").none(),
          nb::arg("c_n").none(), nb::arg("lines").none(), nb::arg("threads").none(), nb::arg("tokens") = nb::none(),
          nb::arg("checkpoint_every").none() = nb::int_(0), nb::arg("c_kept") = nb::none(),
          "One layer over a whole sequence, into y, h_n, c_n, lines and c_kept.");
    m.def("backward",
          [](nb::handle shape, nb::handle x, nb::handle lengths, nb::handle h0, nb::handle c0, nb::handle weights,
             nb::handle y, nb::handle lines, nb::handle dy, nb::handle dh_n, nb::handle dc_n, nb::handle dx,
             nb::handle dh0, nb::handle dc0, nb::handle dweights, nb::handle threads, nb::handle tokens,
             nb::handle checkpoint_every, nb::handle c_kept) {
              const Shape s = shape_of(shape);
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(x, "x", [&](auto zero) {
                  run_backward<decltype(zero)>(s, x, tokens, lengths, h0, c0, weights, y, lines, dy, dh_n, dc_n, dx, dh0, dc0,
                                               dweights, n, checkpoint_every, c_kept);
              });
          },
          nb::arg("shape").none(), nb::arg("x").none(), nb::arg("lengths").none(), nb::arg("h0").none(),
          nb::arg("c0").none(), nb::arg("weights").none(), nb::arg("y").none(), nb::arg("lines").none(),
          nb::arg("dy").none(), nb::arg("dh_n").none(), nb::arg("dc_n").none(), nb::arg("dx").none(),
          nb::arg("dh0").none(), nb::arg("dc0").none(), nb::arg("dweights").none(), nb::arg("threads").none(), nb::arg("tokens") = nb::none(),
          nb::arg("checkpoint_every").none() = nb::int_(0), nb::arg("c_kept") = nb::none(),
          "Its gradients, into dx, dh0, dc0 and dweights; uses up the lines.");

    m.def("scan_forward",
          [](bool is_complex, nb::handle a, nb::handle b, nb::handle lengths, nb::handle resets, nb::handle h0, nb::handle h,
             nb::handle h_n, nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(a, "a", [&](auto zero) {
                  run_scan_forward<decltype(zero)>(is_complex, a, b, lengths, resets, h0, h, h_n, n);
              });
          },
          nb::arg("is_complex"), nb::arg("a").none(), nb::arg("b").none(), nb::arg("lengths").none(),
          nb::arg("resets").none(), nb::arg("h0").none(), nb::arg("h").none(), nb::arg("h_n").none(),
          nb::arg("threads").none(), "h_t = a_t * h_(t-1) + b_t, into h and h_n.");
    m.def("scan_backward",
          [](bool is_complex, nb::handle a, nb::handle lengths, nb::handle resets, nb::handle h0, nb::handle h, nb::handle dh,
             nb::handle dh_n, nb::handle da, nb::handle db, nb::handle dh0, nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(a, "a", [&](auto zero) {
                  run_scan_backward<decltype(zero)>(is_complex, a, lengths, resets, h0, h, dh, dh_n, da, db, dh0, n);
              });
          },
          nb::arg("is_complex"), nb::arg("a").none(), nb::arg("lengths").none(), nb::arg("resets").none(),
          nb::arg("h0").none(), nb::arg("h").none(), nb::arg("dh").none(), nb::arg("dh_n").none(), nb::arg("da").none(),
          nb::arg("db").none(), nb::arg("dh0").none(), nb::arg("threads").none(), "Its gradients, into da, db and dh0.");
    m.def("convolution",
          [](nb::handle x, nb::handle kernel, nb::handle bias, nb::handle y, nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(x, "x", [&](auto zero) { run_convolution<decltype(zero)>(x, kernel, bias, y, n); });
          },
          nb::arg("x").none(), nb::arg("kernel").none(), nb::arg("bias").none(), nb::arg("y").none(),
          nb::arg("threads").none(), "A causal convolution of each feature, into y.");
    m.def("convolution_backward",
          [](nb::handle x, nb::handle kernel, nb::handle dy, nb::handle dx, nb::handle dkernel, nb::handle dbias,
             nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(x, "x", [&](auto zero) {
                  run_convolution_backward<decltype(zero)>(x, kernel, dy, dx, dkernel, dbias, n);
              });
          },
          nb::arg("x").none(), nb::arg("kernel").none(), nb::arg("dy").none(), nb::arg("dx").none(),
          nb::arg("dkernel").none(), nb::arg("dbias").none(), nb::arg("threads").none(), "Its gradients.");
    m.attr("selection_chunk") = selection_chunk;
    m.attr("selection_tile") = selection_tile;
    m.def("selection_forward",
          [](nb::handle d, nb::handle v, nb::handle A, nb::handle B, nb::handle C, nb::handle D, nb::handle c0,
             nb::handle lengths, nb::handle resets, nb::handle y, nb::handle c_n, nb::handle kept, nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(d, "d", [&](auto zero) {
                  run_selection_forward<decltype(zero)>(d, v, A, B, C, D, c0, lengths, resets, y, c_n, kept, n);
              });
          },
          nb::arg("d").none(), nb::arg("v").none(), nb::arg("A").none(), nb::arg("B").none(), nb::arg("C").none(),
          nb::arg("D").none(), nb::arg("c0").none(), nb::arg("lengths").none(), nb::arg("resets").none(), nb::arg("y").none(),
          nb::arg("c_n").none(), nb::arg("kept").none(), nb::arg("threads").none(), "A selective scan, into y, c_n and kept.");
    m.def("selection_backward",
          [](nb::handle d, nb::handle v, nb::handle A, nb::handle B, nb::handle C, nb::handle D, nb::handle lengths,
             nb::handle resets, nb::handle kept, nb::handle dy, nb::handle dc_n, nb::handle dd, nb::handle dv, nb::handle dA,
             nb::handle dB, nb::handle dC, nb::handle dD, nb::handle dc0, nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(d, "d", [&](auto zero) {
                  run_selection_backward<decltype(zero)>(d, v, A, B, C, D, lengths, resets, kept, dy, dc_n, dd, dv, dA, dB, dC, dD, dc0, n);
              });
          },
          nb::arg("d").none(), nb::arg("v").none(), nb::arg("A").none(), nb::arg("B").none(), nb::arg("C").none(),
          nb::arg("D").none(), nb::arg("lengths").none(), nb::arg("resets").none(), nb::arg("kept").none(), nb::arg("dy").none(),
          nb::arg("dc_n").none(), nb::arg("dd").none(), nb::arg("dv").none(), nb::arg("dA").none(), nb::arg("dB").none(),
          nb::arg("dC").none(), nb::arg("dD").none(), nb::arg("dc0").none(), nb::arg("threads").none(), "Its gradients.");
    m.def("transducer_loss",
          [](nb::handle log_p, nb::handle lengths, nb::handle label_lengths, nb::handle losses, nb::handle gradients,
             nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(log_p, "log_p", [&](auto zero) {
                  run_lattice<decltype(zero)>(log_p, lengths, label_lengths, losses, gradients, n);
              });
          },
          nb::arg("log_p").none(), nb::arg("lengths").none(), nb::arg("label_lengths").none(), nb::arg("losses").none(),
          nb::arg("gradients").none(), nb::arg("threads").none(), "The loss of an RNN transducer, and its gradients.");
    m.def("product",
          [](nb::handle x, nb::handle weight, nb::handle bias, nb::handle y, nb::handle threads) {
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(x, "x", [&](auto zero) { run_product<decltype(zero)>(x, weight, bias, y, n); });
          },
          nb::arg("x").none(), nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("y").none(),
          nb::arg("threads").none(), "x W^T + bias, into y.");

    m.def("elements",
          [](const std::vector<int64_t>& elements, int64_t scratch, nb::handle tensors, nb::handle vectors, nb::handle threads) {
              const nb::tuple each = tuple_of(tensors, "tensors", 0), constants = tuple_of(vectors, "vectors", 0);
              if (each.size() == 0 || scratch < 0) refuse("tensors", "is empty", "one or more");
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(each[0], "tensors", [&](auto zero) {
                  run_elements<decltype(zero)>(elements_of(elements), scratch, each, constants, n);
              });
          },
          nb::arg("elements"), nb::arg("scratch"), nb::arg("tensors"), nb::arg("vectors"), nb::arg("threads"),
          "Elements of a program for each row of tensors.");

    m.def("map",
          [](nb::handle function, nb::handle x, nb::handle y, nb::handle threads, nb::handle dy) {
              const Function f = Function(integer(function, "function", 0, 5));
              const int n = int(integer(threads, "threads", 1, 1 << 15));
              by_type(x, "x", [&](auto zero) { run_map<decltype(zero)>(f, x, y, dy, n); });
          },
          nb::arg("function"), nb::arg("x").none(), nb::arg("y").none(), nb::arg("threads").none(),
          nb::arg("dy") = nb::none(), "A function of each number of x, or its gradient, into y.");

    nb::class_<PyProgram>(m, "Program", "A cell as kernels and products; see program.hpp.")
        .def(nb::init<bool, const PyProgram::Numbers&, const PyProgram::Numbers&, const std::vector<PyProgram::Numbers>&,
                      const PyProgram::Numbers&, const PyProgram::Numbers&, const PyProgram::Numbers&, double,
                      const std::vector<PyProgram::Numbers>&, const PyProgram::Numbers&>(),
             nb::arg("doubles"), nb::arg("sizes"), nb::arg("states"), nb::arg("operations"), nb::arg("matrices"),
             nb::arg("vectors"), nb::arg("sums"), nb::arg("work"), nb::arg("pieces"),
             nb::arg("elements") = PyProgram::Numbers())
        .def("forward", &PyProgram::forward, nb::arg("x"), nb::arg("lengths").none(), nb::arg("tensors"), nb::arg("state"),
             nb::arg("reverse"), nb::arg("y"), nb::arg("last"), nb::arg("lines").none(), nb::arg("threads"))
        .def("backward", &PyProgram::backward, nb::arg("x"), nb::arg("lengths").none(), nb::arg("tensors"), nb::arg("state"),
             nb::arg("reverse"), nb::arg("lines"), nb::arg("dy").none(), nb::arg("d_last"),
             nb::arg("dx").none(), nb::arg("d_state"), nb::arg("results"), nb::arg("threads"));

    nb::class_<PyStream>(m, "Stream", "A stack of layers, one step at a time. See ostinato.Stream.")
        .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle>(), nb::arg("shapes"),
             nb::arg("weights"), nb::arg("rows"), nb::arg("precision"), nb::arg("threads"), nb::arg("array"), nb::arg("tensor"))
        .def(nb::init<nb::handle, nb::handle, nb::handle, nb::handle, nb::handle>(), nb::arg("programs"), nb::arg("tensors"),
             nb::arg("rows"), nb::arg("array"), nb::arg("tensor"))
        .def(nb::init<const PyStream&, nb::handle, nb::handle>(), nb::arg("other"), nb::arg("array"), nb::arg("tensor"))
        .def("step", &PyStream::step, nb::arg("x").none(), nb::arg("out") = nb::none(),
             "One step, (I,) to (P,) or (B, I) to (B, P): a NumPy array to a NumPy array, or a tensor to a\n"
             "tensor, of the dtype of the weights. `out`, contiguous, takes the result instead of a new one.")
        .def("step", [](PyStream&, const nb::args& given, const nb::kwargs& more) {
                refuse("Stream.step", "got " + std::to_string(given.size() + more.size()) + " arguments", "x and optionally out");
            })
        .def("_chunk", &PyStream::chunk, nb::arg("x").none(), nb::arg("y").none())
        .def("_save", &PyStream::save, nb::arg("state").none())
        .def("_load", &PyStream::load, nb::arg("state").none())
        .def("_state_size", &PyStream::state_size)
        .def("_reset", &PyStream::reset);
}
