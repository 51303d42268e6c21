"""What goes into a recurrent network and comes out of it.

- `ostinato.sequences.text`: text larger than memory, from strings, files, folders, standard input.
- `ostinato.sequences.vocabulary`: text to token ids and back, by character, byte, word, subword.
- `ostinato.sequences.reading`: files of texts, measurements, sounds, images, with their labels;
  `tables` those with columns, `corpus` what is read;
  `ostinato.sequences.music`: pieces of music.
- `ostinato.sequences.features`, `inputs`: those as numbers, and what a model keeps to make them.
- `ostinato.sequences.ragged`, `batches`: sequences on disk, and batches of them.
"""
