//! Where gRPC's messages end in the bytes of a stream. Reads heads alone; decoding is tonic's.

use std::collections::VecDeque;

/// A flag, and the length of what follows.
const HEAD_BYTES: usize = 5;

#[derive(Default)]
pub(super) struct Framing {
    head: [u8; HEAD_BYTES],
    head_len: usize,
    /// Bytes of the current message that have not come.
    left: usize,
    /// Bytes of each message that has come whole and was not asked for, heads included. No more than its stream may have in flight.
    whole: VecDeque<u32>,
}

impl Framing {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let head = bytes.len().min(HEAD_BYTES - self.head_len);
                self.head[self.head_len..self.head_len + head].copy_from_slice(&bytes[..head]);
                self.head_len += head;
                bytes = &bytes[head..];
                if self.head_len < HEAD_BYTES {
                    return;
                }
                self.left = self.announced();
            }
            let body = bytes.len().min(self.left);
            self.left -= body;
            bytes = &bytes[body..];
            if self.left == 0 {
                self.head_len = 0;
                self.whole.push_back(u32::try_from(HEAD_BYTES + self.announced()).unwrap_or(u32::MAX));
            }
        }
    }

    /// Whether the sender owes nothing.
    pub(super) fn is_between_messages(&self) -> bool {
        self.head_len == 0
    }

    /// Bytes of the next whole message, in the order they came.
    pub(super) fn take(&mut self) -> usize {
        self.whole.pop_front().unwrap_or(0) as usize
    }

    fn announced(&self) -> usize {
        let [_, a, b, c, d] = self.head;
        u32::from_be_bytes([a, b, c, d]) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_bytes_are_cut() {
        let stream = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0, 0], &[1, 0, 0, 0, 1], b"z"].concat();
        for piece in 1..=stream.len() {
            let mut framing = Framing::default();
            stream.chunks(piece).for_each(|bytes| framing.feed(bytes));
            assert!(framing.is_between_messages(), "pieces of {piece}");
            assert_eq!([framing.take(), framing.take(), framing.take(), framing.take()], [8, 5, 6, 0]);
        }
    }

    #[test]
    fn a_message_that_has_begun_is_owed() {
        for begun in [&[0][..], &[0, 0, 0, 0, 9], &[0, 0, 0, 0, 9, 1, 2]] {
            let mut framing = Framing::default();
            framing.feed(begun);
            assert!(!framing.is_between_messages(), "{begun:?}");
            assert_eq!(framing.take(), 0);
        }
    }
}
