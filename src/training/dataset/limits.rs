//! How much a dataset may hold, in every format. A training run keeps it in memory whole, beside the model that serves, and whoever
//! sends it may lie about it: readers count what they make, and end at the first bound of the file that is passed.

// Of the whole file.

/// Bytes after decompression, and of Parquet's texts after their dictionaries are written out: a decompression bomb ends here.
pub(super) const UNPACKED_BYTES_MAX: usize = 256 << 20;

/// Bytes that the examples take in memory, by [`string_bytes`]: twice the text of a large file, or some four million tagged words.
/// Short words cost many times their text.
pub(super) const EXAMPLES_BYTES_MAX: usize = 2 * UNPACKED_BYTES_MAX;

/// Rows of one split; a million is some hours of training on the machines this is made for.
pub(super) const ROWS_MAX: usize = 1_000_000;

/// Labels or entity types: of the 4096 outputs that a head may have NER needs two for each type.
pub(super) const LABELS_MAX: usize = 2047;

/// Memory that a zstd stream may ask for as its window, as a power of two: 8 MiB, what RFC 8878 asks of every decoder, and what
/// every level but `--ultra` and `--long` writes.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Columns of a table; a header with more is no header.
pub(super) const COLUMNS_MAX: usize = 1000;

/// Of the rows, the share that `on_error=skip` may leave out: where more are bad, the file is not what it was taken for.
pub(super) const SKIPPED_SHARE_MAX: f64 = 0.5;

// Of one row.

/// Bytes of one row as its file has it; a longer "line" is usually a file without line ends, or an open quote.
pub(super) const ROW_BYTES_MAX: usize = 1 << 20;

/// Words of one row; windows of an encoder hold some hundred. Also its spans, which have a word each.
pub(super) const WORDS_MAX: usize = 20_000;

/// Bytes of a label's name; longer ones are a text column taken for labels.
pub(super) const LABEL_BYTES_MAX: usize = 256;

/// Spans of one row that are found wrong before the row is left: each may cost as much as the text is long.
pub(super) const WRONG_SPANS_MAX: usize = 10;

// Of Parquet's own structure.

/// Bytes of a Parquet file's footer: its metadata takes many times that in memory.
pub(super) const FOOTER_BYTES_MAX: usize = 16 << 20;

/// Elements of a Parquet schema, columns and groups.
pub(super) const SCHEMA_ELEMENTS_MAX: usize = 2 * COLUMNS_MAX;

/// Groups within groups of a Parquet schema: what reads them recurses, and labelled text nests five deep.
pub(super) const SCHEMA_DEPTH_MAX: usize = 32;

/// Columns of all row groups together: each takes about a kilobyte once it is read.
pub(super) const COLUMN_CHUNKS_MAX: usize = 65_536;

/// Pages of a Parquet file: writers fill them with thousands of values.
pub(super) const PAGES_MAX: usize = 1_000_000;

/// Bytes of one page before compression; writers aim at one megabyte, and end a page behind the value that fills it.
pub(super) const PAGE_BYTES_MAX: usize = 64 << 20;

// Of the work and the report.

/// Bytes or rows between two looks at whether the work is still wanted: some milliseconds.
pub(super) const BYTES_A_LOOK: usize = 256 << 10;
pub(super) const ROWS_A_LOOK: usize = 1024;

/// Line numbers of a finding, as the contract has it.
pub(super) const LINES_SHOWN_MAX: usize = 10;

/// Lines that a finding's message explains one by one.
pub(super) const DETAILS_SHOWN_MAX: usize = 3;

/// Rows that a finding shows one by one, as samples.
pub(super) const SAMPLES_SHOWN_MAX: usize = 5;

/// Characters of one such explanation: they quote what was sent.
pub(super) const DETAIL_CHARS_MAX: usize = 400;

/// Rows that the report shows as they were understood, as the contract has it.
pub(super) const PREVIEW_ROWS: usize = 2;

/// Words of a row that the preview shows, and characters of a text: enough to see what was taken for what.
pub(super) const PREVIEW_WORDS_MAX: usize = 40;
pub(super) const PREVIEW_CHARS_MAX: usize = 300;

/// Column names that a message lists.
pub(super) const NAMES_SHOWN_MAX: usize = 20;

/// About what a `String` of `len` bytes takes: itself, and a block of an allocator that rounds up.
pub(super) const fn string_bytes(len: usize) -> usize {
    let block = len + 8;
    size_of::<String>() + if block < 32 { 32 } else { block.next_multiple_of(16) }
}
