"""Make random Keras models, with an input and its output beside each; needs keras, not Ostinato.

    KERAS_BACKEND=torch python tests/make_keras.py FOLDER --count 100
    python tests/exchange.py --keras FOLDER

The first is run where Keras is installed, the second where Ostinato is.
"""

import argparse
import random
from pathlib import Path

import numpy as np


def recurrent(layers, rng, sequences):
    """A random recurrent layer."""
    kind = rng.choice(["LSTM", "GRU", "GRU", "SimpleRNN"])
    options = {"return_sequences": sequences, "use_bias": rng.random() < 0.85}
    options["bias_initializer"] = "random_normal"
    if kind == "GRU":
        options["reset_after"] = rng.random() < 0.5
    if kind == "SimpleRNN":
        options["activation"] = rng.choice(["tanh", "relu", "sigmoid", "linear"])
    if rng.random() < 0.2:
        options["dropout"] = 0.3
    two_ways = rng.random() < 0.35
    if not two_ways and rng.random() < 0.15:
        options["go_backwards"] = True
    layer = getattr(layers, kind)(rng.choice([1, 2, 4, 7]), **options)
    merge = rng.choice(["concat", "concat", "sum", "ave", "mul"])
    return layers.Bidirectional(layer, merge_mode=merge) if two_ways else layer


def parts(layers, rng, I, embedded):
    """Random layers, one after the other."""
    if embedded:
        yield layers.Embedding(11, I, embeddings_initializer="random_normal")
    depth = rng.choice([1, 1, 2, 3])
    for k in range(depth):
        sequences = k < depth - 1 or rng.random() < 0.4
        yield recurrent(layers, rng, sequences)
        if rng.random() < 0.2:
            yield layers.Dropout(0.5)
    for _ in range(rng.choice([0, 1, 1, 2])):
        activation = rng.choice([None, "softmax", "sigmoid", "relu", "tanh"])
        dense = layers.Dense(
            rng.choice([1, 3]), activation, rng.random() < 0.9, bias_initializer="random_normal"
        )
        yield layers.TimeDistributed(dense) if sequences and rng.random() < 0.3 else dense
    if rng.random() < 0.2:
        yield layers.Activation("softmax")


def main():
    import keras

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for n in range(args.count):
        rng = random.Random(n)
        keras.utils.set_random_seed(n)
        I, embedded = rng.choice([1, 3, 5]), rng.random() < 0.2
        made = list(parts(keras.layers, rng, I, embedded))
        shape = (None,) if embedded else (None, I)
        if rng.random() < 0.4:
            x = y = keras.Input(shape)
            for layer in made:
                y = layer(y)
            model = keras.Model(x, y)
        else:
            model = keras.Sequential([keras.Input(shape), *made])
        draws = np.random.default_rng(n)
        x = draws.integers(0, 11, (3, 6)) if embedded else draws.normal(size=(3, 6, I))
        x = x.astype("int64" if embedded else "float32")
        model.save(args.folder / f"{n}{'.keras' if n % 2 else '.h5'}")
        np.savez(args.folder / f"{n}.npz", x=x, y=np.asarray(model.predict(x, verbose=0)))
    print(f"{args.count} models in {args.folder}")


if __name__ == "__main__":
    main()
