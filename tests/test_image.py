"""Images as sources: features of places, whose place counts."""

import torch

from ostinato.networks.image import ImageEncoder
from ostinato.networks.seq2seq import Decoder, EncoderDecoder
from ostinato.recurrence.dropin import GRU

V, B, W, H = 7, 3, 4, 6


def test_one_to_many_starts_from_an_image():
    torch.manual_seed(0)
    image = ImageEncoder(3, 16, blocks=2)
    net = EncoderDecoder(image, Decoder(V, GRU(W, H, batch_first=True), 16, W, "additive"))
    y = torch.randint(V, (B, 4))
    pictures = torch.rand(B, 3, 9, 14)
    encoded = image(pictures)
    assert encoded.memory.shape == (B, 3 * 4, 16) and bool(encoded.mask.all())
    loss, _ = net.loss(pictures, y)
    assert torch.isfinite(loss)
    # What is where makes a difference: the same image, turned round, is another memory.
    turned = image(pictures.flip(-1))
    assert not torch.allclose(turned.summary, image(pictures).summary)
