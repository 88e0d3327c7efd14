//! Bytes as uploaded to bytes of a format: gzip and zstd taken off, never more than the limit made of them, and no longer than they are wanted.

use std::borrow::Cow;
use std::io::{self, Read};

use crate::domain::{Cancel, Error, Result};

use super::limits::{BYTES_A_LOOK, UNPACKED_BYTES_MAX, ZSTD_WINDOW_LOG_MAX};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What is inside; bytes without a compressor's magic number are themselves.
pub(super) fn unpack<'a>(bytes: &'a [u8], cancel: &Cancel) -> Result<Cow<'a, [u8]>> {
    let watched = Watched { bytes, cancel };
    if bytes.starts_with(GZIP) {
        inflate("gzip", flate2::read::MultiGzDecoder::new(watched), cancel).map(Cow::Owned)
    } else if bytes.starts_with(ZSTD) {
        let mut decoder = zstd::Decoder::new(watched)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        inflate("zstd", decoder, cancel).map(Cow::Owned)
    } else if bytes.len() > UNPACKED_BYTES_MAX {
        Err(too_large())
    } else {
        Ok(Cow::Borrowed(bytes))
    }
}

fn inflate(what: &str, mut decoder: impl Read, cancel: &Cancel) -> Result<Vec<u8>> {
    let broken = |source: io::Error| {
        let hint =
            if what == "zstd" { format!(" (its window may be 2^{ZSTD_WINDOW_LOG_MAX} bytes)") } else { String::new() };
        Error::unprocessable(format!("the {what} stream is broken: {source}{hint}")).with_source(source)
    };
    let mut bytes = Vec::new();
    loop {
        cancel.check()?;
        let read = decoder.by_ref().take(BYTES_A_LOOK as u64).read_to_end(&mut bytes);
        // What ended the stream may be that nobody waits for it, which is not the stream's fault.
        cancel.check()?;
        match read.map_err(broken)? {
            0 => return Ok(bytes),
            _ if bytes.len() > UNPACKED_BYTES_MAX => return Err(too_large()),
            _ => {}
        }
    }
}

/// Compressed bytes that end when they are not wanted any more: a stream of empty members is long work that makes no byte.
struct Watched<'a> {
    bytes: &'a [u8],
    cancel: &'a Cancel,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        self.bytes.read(buffer)
    }
}

fn too_large() -> Error {
    Error::too_large(format!("the data is over {UNPACKED_BYTES_MAX} bytes uncompressed; train on a part of it"))
}
