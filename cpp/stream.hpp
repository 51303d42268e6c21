// A stack of layers, one step at a time: Stream of core.hpp, for one instruction set.
//
// A model (packed weights, never changed) and a state each lie in one block of memory, which begins
// with a header, so that a model can serve many states.
#pragma once

#include <new>

#include "forward.hpp"
#include "quantized.hpp"

namespace ostinato {
namespace OSTINATO_TARGET {

template <class T, class Matrix> struct StreamModel {
    struct Layer {
        Shape shape;
        Lines<T> lines;
        ForwardWeights<T, Matrix> w;
    };
    int64_t layers;
    Layer* layer;

    // Counts only, where the arena has no memory.
    static StreamModel* make(const Shape* shapes, int64_t layers, Arena& arena) {
        StreamModel* model = arena.take<StreamModel>(1);
        Layer* layer = arena.take<Layer>(layers);
        for (int64_t i = 0; i < layers; ++i) {
            const ForwardWeights<T, Matrix> w(shapes[i], arena);
            if (layer) new (layer + i) Layer{shapes[i], Lines<T>(shapes[i]), w};
        }
        if (model) *model = {layers, layer};
        return model;
    }
};

// h and the workspace are held twice: a step reads one side and writes the other.
template <class T, class Matrix> struct StreamState {
    using Model = StreamModel<T, Matrix>;
    using Row = typename Matrix::Row;
    struct Layer {
        Row *x, *hs, *inner;
        char *x_at, *hs_at, *inner_at;
        T* partial;
        const T **h[2], **c[2];
        T **line[2], **y[2];
        T *hidden[2], *lines[2];
    };
    int64_t rows;
    int side;  // which holds the state
    Layer* layer;

    static StreamState* make(const Model& model, int64_t rows, Arena& arena) {
        StreamState* state = arena.take<StreamState>(1);
        Layer* layers = arena.take<Layer>(model.layers);
        for (int64_t i = 0; i < model.layers; ++i) {
            const typename Model::Layer& of = model.layer[i];
            Layer l;
            auto place = [&](Row*& pointers, char*& at, int64_t k) {
                pointers = arena.take<Row>(rows), at = arena.take<char>(rows * Matrix::row_bytes(k));
            };
            place(l.x, l.x_at, of.shape.I), place(l.hs, l.hs_at, of.shape.P), place(l.inner, l.inner_at, of.shape.H);
            l.partial = arena.take<T>(rows * 4 * W<T>);
            const int64_t Pp = whole<T>(of.shape.P);
            for (int s = 0; s < 2; ++s) {
                l.h[s] = arena.take<const T*>(rows), l.c[s] = arena.take<const T*>(rows);
                l.line[s] = arena.take<T*>(rows), l.y[s] = arena.take<T*>(rows);
                l.hidden[s] = arena.take<T>(rows * Pp), l.lines[s] = arena.take<T>(rows * of.lines.length);
            }
            if (!layers) continue;
            for (int s = 0; s < 2; ++s)
                for (int64_t r = 0; r < rows; ++r) {
                    l.h[s][r] = l.y[1 - s][r] = l.hidden[s] + r * Pp;
                    l.line[1 - s][r] = l.lines[s] + r * of.lines.length;
                    l.c[s][r] = l.line[1 - s][r] + of.lines.c;
                }
            new (layers + i) Layer(l);
        }
        if (state) *state = {rows, 0, layers};
        return state;
    }
};

template <class T, class Matrix> struct Streams {
    using Model = StreamModel<T, Matrix>;
    using State = StreamState<T, Matrix>;

    static int64_t model_memory(const Shape* shapes, int64_t layers) {
        Arena arena(nullptr);
        Model::make(shapes, layers, arena);
        return arena.used();
    }
    static void build_model(const Shape* shapes, const Weights<T>* weights, int64_t layers, Products products,
                            char* memory) {
        Arena arena(memory);
        const Model* model = Model::make(shapes, layers, arena);
        for (int64_t i = 0; i < layers; ++i) {
            auto& w = model->layer[i].w;
            set_products(w.ih, products), set_products(w.hh, products), set_products(w.second, products);
            w.pack(shapes[i], weights[i], 0, 1);
        }
    }
    static int64_t state_memory(const char* model, int64_t rows) {
        Arena arena(nullptr);
        State::make(*reinterpret_cast<const Model*>(model), rows, arena);
        return arena.used();
    }
    static void build_state(const char* model, int64_t rows, char* memory) {
        Arena arena(memory);
        State::make(*reinterpret_cast<const Model*>(model), rows, arena);
    }
    // Calls f(numbers, count) for each row of h, then of c, of every layer.
    template <class F> static void each(const char* model, const char* state, F&& f) {
        const Model& m = *reinterpret_cast<const Model*>(model);
        const State& s = *reinterpret_cast<const State*>(state);
        for (int64_t i = 0; i < m.layers; ++i) {
            const Shape& shape = m.layer[i].shape;
            for (int64_t r = 0; r < s.rows; ++r) f(const_cast<T*>(s.layer[i].h[s.side][r]), shape.P);
            if (shape.cell != CellKind::lstm) continue;
            for (int64_t r = 0; r < s.rows; ++r) f(const_cast<T*>(s.layer[i].c[s.side][r]), shape.H);
        }
    }
    static void save(const char* model, const char* state, T* to) {
        each(model, state, [&](T* p, int64_t n) { std::memcpy(to, p, size_t(n) * sizeof(T)), to += n; });
    }
    static void load(const char* model, char* state, const T* from) {
        each(model, state, [&](T* p, int64_t n) { std::memcpy(p, from, size_t(n) * sizeof(T)), from += n; });
        // Numbers past the last unit take part in products with zeros: they must be numbers.
        const Model& m = *reinterpret_cast<const Model*>(model);
        const State& s = *reinterpret_cast<const State*>(state);
        for (int64_t i = 0; i < m.layers; ++i)
            for (int64_t r = 0; r < s.rows; ++r)
                if (m.layer[i].shape.cell == CellKind::lstm)
                    for (int64_t u = m.layer[i].shape.H; u < m.layer[i].lines.Hp; ++u)
                        const_cast<T*>(s.layer[i].c[s.side][r])[u] = T(0);
    }
    // One member's share of `steps` steps, x (steps, rows, I) to y (steps, rows, P). Members share the
    // units of a layer; where it takes two products, the first member does both.
    static void run(const char* model, char* state, const T* x, int64_t steps, T* y, const Member& me) {
        const Model& m = *reinterpret_cast<const Model*>(model);
        State& s = *reinterpret_cast<State*>(state);
        const int side = s.side;
        const int64_t in = s.rows * m.layer[0].shape.I, out = s.rows * m.layer[m.layers - 1].shape.P;
        for (int64_t t = 0; t < steps; ++t) step(m, s, int(side ^ (t & 1)), x + t * in, y + t * out, me);
        me.wait();  // all have read the side
        if (me.index == 0) s.side = int(side ^ (steps & 1));
    }

private:
    static void step(const Model& m, State& s, int from, const T* x, T* y, const Member& me) {
        const int to = 1 - from;
        const T* const* below = nullptr;
        for (int64_t i = 0; i < m.layers; ++i) {
            const typename Model::Layer& of = m.layer[i];
            const typename State::Layer& l = s.layer[i];
            const int64_t I = of.shape.I, P = of.shape.P, x_bytes = Matrix::row_bytes(I), h_bytes = Matrix::row_bytes(P);
            if (me.index == 0)
                for (int64_t r = 0; r < s.rows; ++r) {
                    l.x[r] = Matrix::row(below ? below[r] : x + r * I, I, l.x_at + r * x_bytes);
                    l.hs[r] = Matrix::row(l.h[from][r], P, l.hs_at + r * h_bytes);
                }
            me.wait();
            const bool two_products = of.shape.projects() || of.shape.cell == CellKind::gru_reset_before;
            const Share all(of.w.ih.count, 0, 1), mine(of.w.ih.count, me.index, me.count);
            const Share share = two_products ? (me.index == 0 ? all : Share(0, 0, 1)) : mine;
            if (share.begin < share.end)
                Step<T, Matrix>{of.shape, of.lines,  of.w,         share.begin, share.end, l.x,       l.h[from],
                                l.hs,     l.c[from], l.line[from], l.y[from],   l.inner,   l.inner_at,
                                l.partial}
                    .run(s.rows);
            me.wait();
            below = l.h[to];
        }
        if (me.index > 0) return;
        const int64_t P = m.layer[m.layers - 1].shape.P;
        for (int64_t r = 0; r < s.rows; ++r) std::memcpy(y + r * P, below[r], size_t(P) * sizeof(T));
    }
};

}  // namespace OSTINATO_TARGET
}  // namespace ostinato
