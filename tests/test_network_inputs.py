"""Words as vectors of their own and of their letters; measurements by statistics that stay."""

import pytest
import torch
from tolerances import assert_same

from ostinato.errors import OstinatoError
from ostinato.networks.inputs import Standardize, WordEncoder, Words

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


def test_affixes_are_summed_and_left_out_while_training():
    torch.manual_seed(0)
    encode = WordEncoder(3, 5, 6, word_dropout=0.5, affixes=4, affix_width=2).double()
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


def test_statistics_travel_with_the_weights():
    encode = Standardize(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.5]))
    other = Standardize(torch.zeros(2), torch.ones(2))
    other.load_state_dict(encode.state_dict())
    x = torch.randint(9, (3, 2))
    assert other(x).tolist() == [[(a - 1) / 4, (b - 2) / 0.5] for a, b in x.tolist()]
    assert not list(encode.parameters())
