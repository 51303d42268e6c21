"""Networks of recurrent layers: inputs, arrangements, outputs, decoding."""

from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.attention import Attention
from ostinato.networks.ctc import CTC, CTCStream
from ostinato.networks.decoding import Search, beam_search, ctc_beam, ctc_greedy, sample
from ostinato.networks.image import ImageEncoder
from ostinato.networks.inputs import Standardize, WordEncoder
from ostinato.networks.lattice import joint_log_probs, transducer_loss
from ostinato.networks.outputs import CRFOutput, Output
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder, VectorEncoder
from ostinato.networks.transducer import Lookahead, Transducer, TransducerStream

__all__ = [
    "CTC",
    "Attention",
    "CRFOutput",
    "CTCStream",
    "Decoder",
    "EncoderDecoder",
    "ImageEncoder",
    "Lookahead",
    "ManyToMany",
    "ManyToOne",
    "OneToOne",
    "Output",
    "RecurrentEncoder",
    "Search",
    "Standardize",
    "Transducer",
    "TransducerStream",
    "VectorEncoder",
    "WordEncoder",
    "beam_search",
    "ctc_beam",
    "ctc_greedy",
    "joint_log_probs",
    "sample",
    "transducer_loss",
]
