//! Short texts in shared memory.

/// Bytes that are kept: enough to tell whether a problem is news, and for those who ask.
const LENGTH: usize = 256;

/// A short text in shared memory.
#[derive(Clone, Copy)]
pub struct Text {
    length: usize,
    bytes: [u8; LENGTH],
}

impl Text {
    pub const EMPTY: Self = Self { length: 0, bytes: [0; LENGTH] };

    pub fn new(text: &str) -> Self {
        let length = text.floor_char_boundary(LENGTH);
        let mut this = Self { length, ..Self::EMPTY };
        this.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        this
    }

    pub fn to_text(self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.length]).into_owned()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.bytes[..self.length] == other.bytes[..other.length]
    }
}
