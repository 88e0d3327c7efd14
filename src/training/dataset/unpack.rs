//! Bytes as uploaded to bytes of a format: gzip and zstd taken off, never more than the limit made of them.

use std::borrow::Cow;
use std::io::Read;

use crate::domain::{Error, Result};

use super::limits::UNPACKED_BYTES_MAX;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What is inside; bytes without a compressor's magic number are themselves.
pub(super) fn unpack(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    if bytes.starts_with(GZIP) {
        inflate("gzip", flate2::read::MultiGzDecoder::new(bytes)).map(Cow::Owned)
    } else if bytes.starts_with(ZSTD) {
        inflate("zstd", zstd::Decoder::new(bytes)?).map(Cow::Owned)
    } else if bytes.len() > UNPACKED_BYTES_MAX {
        Err(too_large())
    } else {
        Ok(Cow::Borrowed(bytes))
    }
}

fn inflate(what: &str, decoder: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    decoder
        .take(UNPACKED_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::unprocessable(format!("the {what} stream is broken: {source}")).with_source(source))?;
    if bytes.len() > UNPACKED_BYTES_MAX { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> Error {
    Error::too_large(format!("the data is over {UNPACKED_BYTES_MAX} bytes uncompressed; train on a part of it"))
}
