//! How much a dataset may hold. A training run keeps it in memory whole, beside the model that serves.

/// Bytes after decompression: a decompression bomb ends here.
pub(super) const UNPACKED_BYTES_MAX: usize = 256 << 20;

/// Bytes of one row as its file has it; a longer "line" is usually a file without line ends, or an open quote.
pub(super) const ROW_BYTES_MAX: usize = 1 << 20;

/// Rows of one split; a million is some hours of training on the machines this is made for.
pub(super) const ROWS_MAX: usize = 1_000_000;

/// Words of one row; windows of an encoder hold some hundred.
pub(super) const WORDS_MAX: usize = 20_000;

/// Labels or entity types: of the 4096 outputs that a head may have NER needs two for each type.
pub(super) const LABELS_MAX: usize = 2047;

/// Bytes of a label's name; longer ones are a text column taken for labels.
pub(super) const LABEL_BYTES_MAX: usize = 256;

/// Line numbers of a finding, as the contract has it.
pub(super) const LINES_SHOWN_MAX: usize = 10;

/// Lines that a finding's message explains one by one.
pub(super) const DETAILS_SHOWN_MAX: usize = 3;
