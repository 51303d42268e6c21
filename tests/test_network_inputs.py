"""Words as vectors of their own and of their letters; measurements by statistics that stay."""

import pytest
import torch
from tolerances import assert_same
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.networks.inputs import LinearScores, Standardize, WordEncoder, Words

SPELLINGS = [[1, 2], [3], [2, 4, 1]]
AFFIXES = [[1, 0, 3], [2, 0, 0], [1, 2, 4]]  # 0 is unknown


def words_of_a_batch(rows):
    """Words by rows of `SPELLINGS`, whose numbers in the vocabulary are 2, 0 and 1."""
    sizes = torch.tensor([len(spelling) for spelling in SPELLINGS])
    characters = torch.tensor([s + [0] * (3 - len(s)) for s in SPELLINGS])
    spelled = torch.tensor(rows)
    ids, affixes = torch.tensor([2, 0, 1])[spelled], torch.tensor(AFFIXES)
    return Words(ids, spelled, characters, sizes, affixes)


def test_a_word_is_its_vector_and_what_its_letters_say():
    torch.manual_seed(0)
    encode = WordEncoder(3, 5, 6, spelling_width=4).double()
    found = encode(words_of_a_batch([[0, 2, 0], [1, 1, 2]]))
    assert found.shape == (2, 3, encode.output_size)
    for row, word in (((0, 0), 0), ((0, 2), 0), ((1, 0), 1), ((0, 1), 2)):
        letters = encode.characters(torch.tensor(SPELLINGS[word]))[None]
        h, _ = encode.spelling(letters)
        wanted = [encode.words.weight[[2, 0, 1][word]], h[0, -1, :2], h[0, 0, 2:]]
        assert_same([found[row]], [torch.cat(wanted)])


def test_words_are_taken_for_unknown_while_training_but_spelled():
    torch.manual_seed(0)
    encode = WordEncoder(3, 5, 6, spelling_width=4, word_dropout=0.5)
    words = words_of_a_batch([[0] * 400])
    sound = encode.eval()(words)
    found = encode.train()(words)
    unknown = (found[0, :, :5] == encode.words.weight[0]).all(-1)
    assert 140 < int(unknown.sum()) < 260
    assert found[0, ~unknown].equal(sound[0, ~unknown])
    assert found[..., 5:].equal(sound[..., 5:])
    assert WordEncoder(3, 5, 6).characters is None
    with pytest.raises(OstinatoError, match="spelling_width=3; must be even"):
        WordEncoder(3, 5, 6, spelling_width=3)


def test_each_word_is_taken_for_unknown_by_its_own_probability():
    encode = WordEncoder(3, 5, 6, word_dropout=torch.tensor([0.0, 0.25, 0.75]))
    found = encode(words_of_a_batch([[0, 2] * 2000]))[0]
    unknown = (found == encode.words.weight[0]).all(-1).double().view(-1, 2).mean(0)
    assert (unknown - torch.tensor([0.75, 0.25])).abs().max() < 0.04
    assert not [name for name in encode.state_dict() if "drop" in name]


def test_affixes_are_summed_and_left_out_while_training():
    torch.manual_seed(0)
    encode = WordEncoder(3, 5, 6, affixes=4, affix_width=2, affix_dropout=0.5).double()
    words = words_of_a_batch([[0, 1, 2]] * 400)
    found = encode.eval()(words)[..., 5:]
    weight = encode.affixes.weight
    assert_same(
        [found[0]], [torch.stack([weight[1] + weight[3], weight[2], weight[[1, 2, 4]].sum(0)])]
    )
    means = torch.stack([encode.train()(words)[0, :, 5:] for _ in range(4000)])
    assert ((means.mean(0) - found[0]).abs() < 0.05 * weight.abs().max()).all()
    first = means[:, 1]  # of a word with one affix: it is there, twice as large, or not
    there = first.any(-1)
    assert 0.4 < there.double().mean() < 0.6
    assert_same([first[there]], [2 * weight[2].expand(int(there.sum()), 2)])


# Linear scores.

ROWS, ENDS = [[0, 2, 1, 0], [1, 1, 0, 2], [2, 0, 0, 1]], [4, 0, 2]


def linear(before, after, dropout=0.0):
    torch.manual_seed(0)
    net = LinearScores(3, 4, 2, before, after, dropout, dropout).double()
    assert not any(p.any() for p in net.parameters()), "nothing is scored before it is learned"
    for p in net.parameters():
        nn.init.normal_(p)
    nn.init.zeros_(net.affixes.weight[0])  # of what is unknown
    return net


def features_of(row, t, length):
    """The rows of the tables that count for a step: of words, of affixes; None outside."""
    if not 0 <= t < length:
        return None
    return [2, 0, 1][row[t]], [each for each in AFFIXES[row[t]] if each]


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 0), (0, 0), (1, 3), (7, 6)])
def test_linear_scores_are_sums_over_the_features_of_neighbours(before, after):
    net = linear(before, after)
    shape = (-1, before + 1 + after, 2)  # (features, offsets, labels)
    words, affixes = net.words.weight.view(shape), net.affixes.weight.view(shape)
    expected = torch.zeros(3, 4, 2, dtype=torch.float64)
    for b, (row, length) in enumerate(zip(ROWS, ENDS, strict=True)):
        for t in range(length):
            for i, at in enumerate(range(t - before, t + after + 1)):
                found = features_of(row, at, length)
                if found is None:
                    expected[b, t] += net.outside[i]
                else:
                    expected[b, t] += words[found[0], i] + affixes[found[1], i].sum(0)
    scores = net(words_of_a_batch(ROWS), ENDS)
    pull = torch.randn_like(expected)
    parameters = list(net.parameters())
    gradients = [
        torch.autograd.grad((y * pull).sum(), parameters, materialize_grads=True)
        for y in (scores, expected)
    ]
    assert_same([scores, *gradients[0]], [expected, *gradients[1]])
    assert_same([net(words_of_a_batch(ROWS[:1]))], [net(words_of_a_batch(ROWS), ENDS)[:1]])


def test_linear_scores_leave_out_features_while_training():
    net = linear(1, 1, dropout=0.5)
    words = words_of_a_batch([[0, 1, 2]])
    whole = net.eval()(words)
    found = torch.stack([net.train()(words) for _ in range(6000)])
    with torch.no_grad():  # a word that is dropped is the unknown one
        net.words.weight[1:] = (net.words.weight[1:] + net.words.weight[:1]) / 2
    expected = net.eval()(words)
    assert (found.mean(0) - expected).abs().max() < 0.2 < (found - whole).abs().max()


def test_statistics_travel_with_the_weights():
    encode = Standardize(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.5]))
    other = Standardize(torch.zeros(2), torch.ones(2))
    other.load_state_dict(encode.state_dict())
    x = torch.randint(9, (3, 2))
    assert other(x).tolist() == [[(a - 1) / 4, (b - 2) / 0.5] for a, b in x.tolist()]
    assert not list(encode.parameters())
