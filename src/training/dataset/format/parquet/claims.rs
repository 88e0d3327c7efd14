//! What a Parquet file says of itself, held to the bounds before anything is unpacked: its footer, and the pages of its columns.

use std::io::{self, Read};

use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

use super::thrift::{I32, LIST, Malformed, STRUCT, Thrift};
use crate::training::dataset::limits::{
    COLUMN_CHUNKS_MAX, FOOTER_BYTES_MAX, PAGE_BYTES_MAX, PAGES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_ELEMENTS_MAX,
    UNPACKED_BYTES_MAX,
};
use crate::training::dataset::row::Fault;

pub(in crate::training::dataset::format) const MAGIC: &[u8] = b"PAR1";

/// Elements of all lists in a footer: encodings, statistics and the like, some ten for each column of a row group.
const FOOTER_ELEMENTS_MAX: usize = 16 * COLUMN_CHUNKS_MAX;

/// Refuses a footer that would take too much memory once it is read, or a schema too deep to be walked.
pub(super) fn check_footer(bytes: &[u8]) -> Result<(), Fault> {
    let footer = footer(bytes).ok_or_else(|| Fault::unreadable("the Parquet file has no footer"))?;
    if footer.len() > FOOTER_BYTES_MAX {
        return Err(over("bytes in the Parquet footer", footer.len(), FOOTER_BYTES_MAX));
    }
    let mut claims = FooterClaims::default();
    claims.read(footer).map_err(|Malformed| Fault::unreadable("the Parquet footer is broken"))?;
    for (what, got, max) in [
        ("elements in the Parquet schema", claims.schema, SCHEMA_ELEMENTS_MAX),
        ("groups within groups of the Parquet schema", claims.depth, SCHEMA_DEPTH_MAX),
        ("row groups", claims.groups, COLUMN_CHUNKS_MAX),
        ("columns in all row groups", claims.chunks, COLUMN_CHUNKS_MAX),
        ("elements in the Parquet footer", claims.elements, FOOTER_ELEMENTS_MAX),
    ] {
        if got > max {
            return Err(over(what, got, max));
        }
    }
    Ok(())
}

/// Before the last magic number and the four bytes of its length.
fn footer(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, length) = bytes.strip_suffix(MAGIC)?.split_last_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.get(rest.len().checked_sub(length)?..)
}

pub(super) fn over(what: &str, got: usize, max: usize) -> Fault {
    Fault::too_large(format!("{got} {what}; at most {max} are allowed"))
}

#[derive(Default)]
struct FooterClaims {
    schema: usize,
    depth: usize,
    groups: usize,
    chunks: usize,
    elements: usize,
}

impl FooterClaims {
    /// `FileMetaData`: its field 2 is the schema, 4 the row groups, of which each has its columns in field 1.
    fn read(&mut self, footer: &[u8]) -> Result<(), Malformed> {
        let mut thrift = Thrift::of(footer);
        thrift.fields(|thrift, id, kind| match (id, kind) {
            (2, LIST) => self.read_schema(thrift).map(|()| true),
            (4, LIST) => {
                let (size, kind) = thrift.list()?;
                self.groups += size;
                let mut group = |thrift: &mut Thrift<'_>| match kind {
                    STRUCT => thrift.fields(|thrift, id, kind| self.read_columns(thrift, id, kind)),
                    _ => Err(Malformed),
                };
                (0..size).try_for_each(|_| group(thrift)).map(|()| true)
            }
            _ => Ok(false),
        })?;
        self.elements = thrift.elements;
        Ok(())
    }

    /// A tree, each group before its children; field 5 of an element is how many it has.
    fn read_schema(&mut self, thrift: &mut Thrift<'_>) -> Result<(), Malformed> {
        let (size, kind) = thrift.list()?;
        self.schema += size;
        let mut open: Vec<i32> = Vec::new(); // of each group around the next element, children still to come
        for _ in 0..size {
            let mut children = 0;
            match kind {
                STRUCT => thrift.fields(|thrift, id, kind| match (id, kind) {
                    (5, I32) => thrift.i32().map(|count| children = count).map(|()| true),
                    _ => Ok(false),
                })?,
                _ => return Err(Malformed),
            }
            while open.pop_if(|left| *left <= 0).is_some() {}
            open.last_mut().into_iter().for_each(|left| *left -= 1);
            open.extend((children > 0).then_some(children));
            self.depth = self.depth.max(open.len());
        }
        Ok(())
    }

    fn read_columns(&mut self, thrift: &mut Thrift<'_>, id: i16, kind: u8) -> Result<bool, Malformed> {
        if (id, kind) != (1, LIST) {
            return Ok(false);
        }
        let (size, kind) = thrift.list()?;
        self.chunks += size;
        (0..size).try_for_each(|_| thrift.skip(kind, true)).map(|()| true)
    }
}

/// What the pages of all columns that are read say they hold.
#[derive(Default)]
pub(super) struct PageClaims {
    pages: usize,
    packed: usize,
    unpacked: usize,
}

impl PageClaims {
    /// Adds a column of a row group in `file`. The parquet crate makes room for a page as its header says, and then fails if it
    /// unpacks to another size; but gzip's pages it unpacks to their end, so these are held to their word here.
    pub(super) fn add(&mut self, file: &[u8], column: &ColumnChunkMetaData) -> Result<(), Fault> {
        let chunk = chunk(file, column).ok_or_else(|| Fault::unreadable("a column is outside of the Parquet file"))?;
        self.packed += chunk.len();
        if self.packed > file.len() {
            return Err(Fault::unreadable("columns of the Parquet file overlap"));
        }
        let mut left = chunk;
        while !left.is_empty() {
            let (header, rest) = PageHeader::read(left)
                .map_err(|Malformed| Fault::unreadable("a page header of the Parquet file is broken"))?;
            let (page, rest) =
                rest.split_at_checked(header.packed).ok_or_else(|| Fault::unreadable("a Parquet page is cut off"))?;
            self.count(&header)?;
            if matches!(column.compression(), Compression::GZIP(_)) && header.is_packed {
                check_gzip(page.get(header.levels..).unwrap_or_default(), header.unpacked)?;
            }
            left = rest;
        }
        Ok(())
    }

    fn count(&mut self, header: &PageHeader) -> Result<(), Fault> {
        self.pages += 1;
        self.unpacked += header.unpacked;
        for (what, got, max) in [
            ("pages", self.pages, PAGES_MAX),
            ("bytes in a page", header.unpacked, PAGE_BYTES_MAX),
            ("bytes unpacked up to here", self.unpacked, UNPACKED_BYTES_MAX),
        ] {
            if got > max {
                return Err(over(what, got, max));
            }
        }
        Ok(())
    }
}

/// The bytes of a column of a row group: from its dictionary, if it has one, else from its first page.
fn chunk<'a>(file: &'a [u8], column: &ColumnChunkMetaData) -> Option<&'a [u8]> {
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let start = usize::try_from(start).ok()?;
    let length = usize::try_from(column.compressed_size()).ok()?;
    file.get(start..start.checked_add(length)?)
}

struct PageHeader {
    packed: usize,
    unpacked: usize,
    /// Bytes at the page's start that are never packed.
    levels: usize,
    is_packed: bool,
}

impl PageHeader {
    /// And the bytes behind it. Its field 2 is the size unpacked, 3 packed, 8 the header of a page of the second version.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut thrift = Thrift::of(bytes);
        let (mut unpacked, mut packed, mut second) = (None, None, SecondVersion::default());
        thrift.fields(|thrift, id, kind| match (id, kind) {
            (2, I32) => thrift.i32().map(|size| unpacked = Some(size)).map(|()| true),
            (3, I32) => thrift.i32().map(|size| packed = Some(size)).map(|()| true),
            (8, STRUCT) => second.read(thrift).map(|()| true),
            _ => Ok(false),
        })?;
        let size = |size: Option<i32>| size.and_then(|size| usize::try_from(size).ok()).ok_or(Malformed);
        let header = Self {
            packed: size(packed)?,
            unpacked: size(unpacked)?,
            levels: second.levels()?,
            is_packed: !second.is_plain,
        };
        Ok((header, &bytes[bytes.len() - thrift.left()..]))
    }
}

/// Fields 5 and 6 are bytes of levels, 7 says whether the rest is packed.
#[derive(Default)]
struct SecondVersion {
    levels: [i32; 2],
    is_plain: bool,
}

impl SecondVersion {
    /// A truth value is in its type: 2 is false.
    fn read(&mut self, thrift: &mut Thrift<'_>) -> Result<(), Malformed> {
        thrift.fields(|thrift, id, kind| {
            match (id, kind) {
                (5 | 6, I32) => self.levels[usize::from(id == 6)] = thrift.i32()?,
                (7, _) => {
                    self.is_plain = kind == 2;
                    return Ok(false);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })
    }

    fn levels(&self) -> Result<usize, Malformed> {
        let sum = self.levels[0].checked_add(self.levels[1]).filter(|_| self.levels.iter().all(|bytes| *bytes >= 0));
        sum.and_then(|sum| usize::try_from(sum).ok()).ok_or(Malformed)
    }
}

/// Unpacks and forgets. What is broken besides, its reader says.
fn check_gzip(packed: &[u8], unpacked: usize) -> Result<(), Fault> {
    let mut wanted = flate2::read::MultiGzDecoder::new(packed).take(unpacked as u64 + 1);
    match io::copy(&mut wanted, &mut io::sink()) {
        Ok(bytes) if bytes > unpacked as u64 => {
            Err(Fault::unreadable(format!("a page of the Parquet file says {unpacked} bytes and holds more")))
        }
        _ => Ok(()),
    }
}
