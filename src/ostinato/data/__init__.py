"""Data: from files, frames and arrays to batches of sequences.

- `ostinato.data.text`: text larger than memory, from strings, files, folders, standard input.
- `ostinato.data.vocabulary`: text to token ids and back, by character, byte, word, subword.
- `ostinato.data.tables`: columns as text and numbers; `formats` has a row for each format,
  `textfiles` and `delimited` read those of text; `columns` says which column means what, `dates`
  reads times.
- `ostinato.data.reading`: files and objects with their labels as a `corpus`, those of tables by
  `sequences`; `pairs`: sources with targets; `midi`: pieces of music.
- `ostinato.data.features`, `inputs`: those as numbers, and what a model keeps to make them.
- `ostinato.data.ragged`, `batches`: sequences on disk, and batches of them.
"""
