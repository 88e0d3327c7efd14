//! As much of Thrift's compact protocol as it takes to count what a Parquet file says of itself, before the parquet crate makes room
//! for it. Nothing is kept.

/// Structs within structs; Parquet's own nest six deep.
const DEPTH_MAX: usize = 16;

/// Bytes of a variable-length number of 64 bits.
const VARINT_BYTES_MAX: u32 = 10;

/// The bytes are no Thrift, or nest too deep.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// The types of the protocol, by their number.
pub(super) const I32: u8 = 5;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Reads from the front of a slice.
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    depth: usize,
    /// Elements of all lists so far: each becomes a value in memory.
    pub(super) elements: usize,
}

impl<'a> Thrift<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, depth: 0, elements: 0 }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    /// The fields of a struct, in its order. `visit` gets each one's number and type, and says whether it read the value; what it
    /// did not read is skipped.
    pub(super) fn fields(&mut self, mut visit: impl FnMut(&mut Self, i16, u8) -> Result<bool>) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Malformed);
        }
        let mut id = 0i16;
        loop {
            let head = self.next_byte()?;
            let (delta, kind) = (head >> 4, head & 0x0f);
            if kind == 0 {
                break;
            }
            id = match delta {
                0 => self.zigzag()? as i16,
                delta => id.checked_add(i16::from(delta)).ok_or(Malformed)?,
            };
            if !visit(self, id, kind)? {
                self.skip(kind, false)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// How many elements a list has, and their type. They come next.
    pub(super) fn list(&mut self) -> Result<(usize, u8)> {
        let head = self.next_byte()?;
        let size = match head >> 4 {
            15 => usize::try_from(self.varint()?).map_err(|_| Malformed)?,
            size => usize::from(size),
        };
        // Each takes a byte at least.
        if size > self.left() {
            return Err(Malformed);
        }
        self.elements += size;
        Ok((size, head & 0x0f))
    }

    /// A number of 32 bits; the parquet crate cuts longer ones alike.
    pub(super) fn i32(&mut self) -> Result<i32> {
        self.zigzag().map(|number| number as i32)
    }

    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for at in 0..VARINT_BYTES_MAX {
            let byte = self.next_byte()?;
            number |= u64::from(byte & 0x7f) << (7 * at).min(63);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    /// A value of type `kind`; a truth value is in the type itself, but in lists.
    pub(super) fn skip(&mut self, kind: u8, in_list: bool) -> Result<()> {
        match kind {
            1 | 2 => self.take(usize::from(in_list)),
            3 => self.take(1),
            4..=6 => self.varint().map(drop),
            7 => self.take(8),
            8 => self.skip_binary(),
            LIST | 10 => self.skip_list(),
            11 => self.skip_map(),
            STRUCT => self.fields(|_, _, _| Ok(false)),
            13 => self.take(16),
            _ => Err(Malformed),
        }
    }

    fn skip_binary(&mut self) -> Result<()> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    fn skip_list(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Malformed);
        }
        let (size, kind) = self.list()?;
        (0..size).try_for_each(|_| self.skip(kind, true))?;
        self.depth -= 1;
        Ok(())
    }

    /// Parquet has none; the parquet crate refuses them too.
    fn skip_map(&mut self) -> Result<()> {
        Err(Malformed)
    }

    fn zigzag(&mut self) -> Result<i64> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(super) fn next_byte(&mut self) -> Result<u8> {
        let (first, rest) = self.bytes.split_first().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(*first)
    }

    fn take(&mut self, count: usize) -> Result<()> {
        self.bytes = self.bytes.get(count..).ok_or(Malformed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_end_where_they_end() {
        let check = |bytes: &[u8], left: Result<usize>| {
            let mut thrift = Thrift::of(bytes);
            assert_eq!(thrift.skip(STRUCT, false).map(|()| thrift.left()), left, "{bytes:?}");
        };
        check(&[0, 9], Ok(1));
        check(&[0x15, 0xff, 0x01, 0, 9], Ok(1)); // 1: i32
        check(&[0x18, 2, b'a', b'b', 0], Ok(0)); // 1: binary
        check(&[0x11, 0x12, 0], Ok(0)); // truth values have no bytes
        check(&[0x19, 0x21, 1, 2, 0], Ok(0)); // but in a list
        check(&[0x1c, 0x15, 2, 0, 0, 7], Ok(1)); // a struct in a struct
        check(&[0x18, 3, b'a', 0], Err(Malformed));
        check(&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], Err(Malformed)); // a list of four thousand million
        check(&[0x15, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00, 0], Err(Malformed));
        check(&[0x1c; 100], Err(Malformed));
        check(&[0x19; 100], Err(Malformed));
        check(&[], Err(Malformed));
    }
}
