"""What goes into a recurrent network and comes out of it.

- `ostinato.sequences.text`: text larger than memory, from strings, files, folders, standard input.
- `ostinato.sequences.vocabulary`: text to token ids and back, by character, byte, word, subword.
- `ostinato.sequences.batches`: token ids on disk, and batches of them for truncated
  back-propagation through time. The only one of the three that imports PyTorch.
"""
