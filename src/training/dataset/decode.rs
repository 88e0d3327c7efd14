//! Bytes to text: UTF-8, UTF-16 with or without a mark, or an older encoding that is recognised by what it says. Notes what it did.

use std::borrow::Cow;

use chardetng::EncodingDetector;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::domain::Excerpt;

use super::findings::Code;
use super::place::Place;
use super::row::{BROKEN, Rows};

/// A byte order mark, as spreadsheets write it.
const BOM: char = '\u{feff}';

/// Bytes that are looked at to recognise an encoding: the first ones that are not ASCII, and those behind them.
const BYTES_GUESSED_FROM: usize = 1 << 20;

/// Bytes that are looked at for the zeros of UTF-16.
const BYTES_PROBED: usize = 4096;

/// Lines with other characters that the note quotes.
const LINES_QUOTED: usize = 3;

/// The text of `bytes`. Where they were no UTF-8, `rows` is told what they were taken for.
pub(super) fn text<'a>(bytes: &'a [u8], rows: &mut Rows) -> Cow<'a, str> {
    let text = match Encoding::for_bom(bytes) {
        Some((encoding, mark)) if encoding == UTF_8 => utf8_or_older(&bytes[mark..], rows),
        Some((utf16, mark)) => decoded(utf16, &bytes[mark..], rows),
        None => match utf16_without_mark(bytes) {
            Some(utf16) => decoded(utf16, bytes, rows),
            None => utf8_or_older(bytes, rows),
        },
    };
    with_line_feeds(text)
}

/// Where carriage returns are all the line ends there are, they become line feeds.
fn with_line_feeds(text: Cow<'_, str>) -> Cow<'_, str> {
    let text = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_start_matches(BOM)),
        owned => owned,
    };
    if text.contains('\r') && !text.contains('\n') { Cow::Owned(text.replace('\r', "\n")) } else { text }
}

fn utf8_or_older<'a>(bytes: &'a [u8], rows: &mut Rows) -> Cow<'a, str> {
    let Err(error) = std::str::from_utf8(bytes) else { return String::from_utf8_lossy(bytes) };
    if is_damaged_utf8(bytes) {
        rows.is_damaged = true;
        return Cow::Owned(mended(bytes));
    }
    let others = &bytes[error.valid_up_to()..];
    let mut detector = EncodingDetector::new();
    detector.feed(&others[..others.len().min(BYTES_GUESSED_FROM)], true);
    decoded(detector.guess(None, false), bytes, rows)
}

/// Whether there are more characters of several bytes than broken ones: then it is UTF-8 with damage, and no other encoding.
fn is_damaged_utf8(bytes: &[u8]) -> bool {
    let (mut whole, mut broken) = (0usize, 0usize);
    for chunk in bytes.utf8_chunks() {
        whole += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        broken += usize::from(!chunk.invalid().is_empty());
    }
    whole > broken
}

/// The text with a mark in the place of each broken character, so that its row is known.
fn mended(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(BROKEN);
        }
    }
    text
}

/// UTF-16 of mostly Western text has a zero in nearly every second byte, and no other text has any.
fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let probed = &bytes[..bytes.len().min(BYTES_PROBED)];
    let zeros = |odd: usize| probed.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    let half = probed.len() / 2;
    match (zeros(0), zeros(1)) {
        _ if half < 2 => None,
        (0, high) if 2 * high > half => Some(UTF_16LE),
        (high, 0) if 2 * high > half => Some(UTF_16BE),
        _ => None,
    }
}

fn decoded(encoding: &'static Encoding, bytes: &[u8], rows: &mut Rows) -> Cow<'static, str> {
    let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
    let note =
        format!("{} was recognised{}", encoding.name(), if had_errors { ", with bytes it does not have" } else { "" });
    rows.findings.warn(Code::Encoding, &Place::file(), note);
    let other = |(_, line): &(usize, &str)| !line.is_ascii();
    for (at, line) in text.lines().enumerate().filter(other).take(LINES_QUOTED) {
        rows.findings.warn(Code::Encoding, &Place::of_line(at + 1), format!("{:?}", Excerpt(line.trim())));
    }
    Cow::Owned(text.into_owned())
}
