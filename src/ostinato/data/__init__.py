"""Data: from files, frames and arrays to batches of sequences.

- `ostinato.data.text`: text larger than memory, from strings, files, folders, standard input.
- `ostinato.data.vocabulary`: text to token ids and back, by character, byte, word, subword.
- `ostinato.data.reading`: files of texts, measurements, sounds, images, with their labels;
  `tables` those with columns, `corpus` what is read; `pairs` sources with targets;
  `dates` dates and times;
  `ostinato.data.midi`: pieces of music.
- `ostinato.data.features`, `inputs`: those as numbers, and what a model keeps to make them.
- `ostinato.data.ragged`, `batches`: sequences on disk, and batches of them.
"""
