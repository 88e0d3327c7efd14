//! Files that are no training data: named for what they are, with what to send instead.

/// Bytes in which a mark may be behind the beginning.
const BYTES_SEARCHED: usize = 64 << 10;

/// Beginnings that tell, what has them, and what is to be sent instead.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (
        b"version https://git-lfs.github.com/spec",
        "a Git LFS pointer, not the data: `git lfs pull` fetches the file it stands for",
    ),
    (b"/annex/objects/", "a git-annex pointer, not the data: `git annex get` fetches the file it stands for"),
    (b"%PDF-", "a PDF document: texts and labels are wanted as JSON lines or CSV"),
    (b"{\\rtf", "a RTF document: save it as plain text"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls, .doc): save the sheet as \"CSV UTF-8\""),
    (b"SQLite format 3\0", "a SQLite database: export the table as CSV"),
    (b"ARROW1", "an Arrow file (Feather): save it as Parquet or JSON lines"),
    (b"\xff\xff\xff\xff", "an Arrow stream, as Hugging Face's cache has it: save it with to_parquet or to_json"),
    (b"ORC", "an ORC file: save it as Parquet or CSV"),
    (b"Obj\x01", "an Avro file: save it as Parquet or JSON lines"),
    (b"\x93NUMPY", "a NumPy array: save texts and labels as JSON lines or CSV"),
    (b"\x89HDF\r\n", "a HDF5 file: save texts and labels as Parquet or CSV"),
    (b"\x80\x03", "a Python pickle, which is never read: save it as JSON lines or CSV"),
    (b"\x80\x04", "a Python pickle, which is never read: save it as JSON lines or CSV"),
    (b"\x80\x05", "a Python pickle, which is never read: save it as JSON lines or CSV"),
    (b"\x78\x9c", "zlib data, as spaCy's DocBin (.spacy): save its docs as JSON lines with text and entities"),
    (b"\x78\xda", "zlib data, as spaCy's DocBin (.spacy): save its docs as JSON lines with text and entities"),
    (b"BZh", "a bzip2 archive: unpack it, or pack it with gzip or zstd"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it, or pack it with gzip or zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it and send one file"),
    (b"Rar!", "a RAR archive: unpack it and send one file"),
    (b"\x04\x22\x4d\x18", "an LZ4 file: unpack it, or pack it with gzip or zstd"),
    (b"\x89PNG", "a PNG image: text is wanted"),
    (b"\xff\xd8\xff", "a JPEG image: text is wanted"),
];

/// What the file is, if it is one of those that people send by mistake.
pub(super) fn name(bytes: &[u8]) -> Option<&'static str> {
    let beginning = BEGINNINGS.iter().find(|(mark, _)| bytes.starts_with(mark)).map(|(_, what)| *what);
    beginning.or_else(|| zip(bytes)).or_else(|| tar(bytes)).or_else(|| markup(bytes))
}

/// Office files are zip archives; the names of their parts tell which.
fn zip(bytes: &[u8]) -> Option<&'static str> {
    if ![b"PK\x03\x04".as_slice(), b"PK\x05\x06"].iter().any(|mark| bytes.starts_with(mark)) {
        return None;
    }
    // A zip archive lists its files at its end, too.
    let (head, tail) =
        (&bytes[..bytes.len().min(BYTES_SEARCHED)], &bytes[bytes.len().saturating_sub(BYTES_SEARCHED)..]);
    let has =
        |name: &str| [head, tail].iter().any(|part| part.windows(name.len()).any(|window| window == name.as_bytes()));
    Some(if has("xl/") {
        "an Excel workbook (.xlsx): save the sheet as \"CSV UTF-8\""
    } else if has("word/") {
        "a Word document (.docx): texts and labels are wanted as JSON lines or CSV"
    } else if has("opendocument.spreadsheet") {
        "an OpenDocument spreadsheet (.ods): save the sheet as CSV in UTF-8"
    } else if has("opendocument") || has("ppt/") {
        "an office document: texts and labels are wanted as JSON lines or CSV"
    } else {
        "a zip archive: unpack it and send one file, which may be packed with gzip or zstd"
    })
}

fn tar(bytes: &[u8]) -> Option<&'static str> {
    /// Where a tar archive has its mark.
    const USTAR: std::ops::Range<usize> = 257..262;
    let is_tar = bytes.get(USTAR) == Some(b"ustar");
    is_tar.then_some("a tar archive: unpack it and send one file")
}

fn markup(bytes: &[u8]) -> Option<&'static str> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(256)])
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_lowercase();
    if head.starts_with("<!doctype html") || head.starts_with("<html") {
        return Some(
            "a HTML page, as a browser shows it: the address of the file itself is wanted (\"raw\", \"download\")",
        );
    }
    head.starts_with("<?xml").then_some("an XML document: texts and labels are wanted as JSON lines or CSV")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_sent_by_mistake_are_named() {
        let check = |bytes: &[u8], wanted: Option<&str>| match wanted {
            Some(words) => assert!(name(bytes).is_some_and(|what| what.contains(words)), "{words}: {:?}", name(bytes)),
            None => assert_eq!(name(bytes), None, "{}", String::from_utf8_lossy(bytes)),
        };
        check(b"PK\x03\x04\x14\0[Content_Types].xml xl/workbook.xml", Some("Excel workbook"));
        check(b"PK\x03\x04\x14\0word/document.xml", Some("Word document"));
        check(b"PK\x03\x04\x14\0mimetypeapplication/vnd.oasis.opendocument.spreadsheet", Some("OpenDocument"));
        check(b"PK\x03\x04\x14\0train.jsonl", Some("zip archive"));
        check(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", Some("Git LFS pointer"));
        check(b"%PDF-1.7\n", Some("PDF document"));
        check(b"\n<!DOCTYPE html><html>", Some("HTML page"));
        check(b"<?xml version=\"1.0\"?>", Some("XML document"));
        check(b"\x80\x04\x95\0", Some("pickle"));
        check(&[vec![b'a'; 257], b"ustar\0".to_vec()].concat(), Some("tar archive"));
        for sound in [&b""[..], b"text,label\n", b"{\"text\":\"PK\"}", b"PK O\n", b"BZ O\n", b"<p> O\n"] {
            check(sound, None);
        }
    }
}
