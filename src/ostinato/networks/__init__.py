"""Networks of recurrent layers: inputs, arrangements, outputs, decoding."""

from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.attention import Attention
from ostinato.networks.ctc import CTC
from ostinato.networks.decoding import Search, beam_search, ctc_beam, ctc_greedy, sample
from ostinato.networks.image import ImageEncoder
from ostinato.networks.inputs import Standardize, WordEncoder
from ostinato.networks.outputs import CRFOutput, Output
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder, VectorEncoder

__all__ = [
    "CTC",
    "Attention",
    "CRFOutput",
    "Decoder",
    "EncoderDecoder",
    "ImageEncoder",
    "ManyToMany",
    "ManyToOne",
    "OneToOne",
    "Output",
    "RecurrentEncoder",
    "Search",
    "Standardize",
    "VectorEncoder",
    "WordEncoder",
    "beam_search",
    "ctc_beam",
    "ctc_greedy",
    "sample",
]
