//! Which worker of which database an entry is of, and its hash.

use super::{ID_LENGTH, WORDS};

/// Which worker of which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) database: u32,
    /// The id, eight bytes a word, filled up with zeroes, which no text of Postgres contains.
    pub(super) words: [u64; WORDS],
}

impl Key {
    /// `None` when the id is too long for an entry.
    pub fn new(database: u32, id: &str) -> Option<Self> {
        let mut bytes = [0; ID_LENGTH];
        bytes.get_mut(..id.len())?.copy_from_slice(id.as_bytes());
        let mut words = [0; WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_be_bytes(*chunk);
        }
        Some(Self { database, words })
    }

    /// The worker's id.
    pub fn id(&self) -> String {
        let mut bytes = [0; ID_LENGTH];
        for (chunk, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.words) {
            *chunk = word.to_be_bytes();
        }
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(ID_LENGTH);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// The words that the id takes up: a word that ends with a zero is an id's last.
    pub(super) fn significant(&self) -> &[u64] {
        let last = self.words.iter().position(|word| word & 0xff == 0);
        &self.words[..last.map_or(WORDS, |last| last + 1)]
    }

    /// Which entries share a chain must not be foreseen by a role that chooses ids: hence the seed, also as the
    /// factor that mixes the words.
    pub(super) fn hash(&self, seed: u64) -> u64 {
        mixed(seed, self.significant().iter().copied(), u64::from(self.database))
    }
}

/// A hash of a text of any length.
pub(super) fn hash_of_text(seed: u64, text: &str) -> u64 {
    let (words, rest) = text.as_bytes().as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]).map(|word| u64::from_be_bytes(*word));
    mixed(seed, words, text.len() as u64)
}

/// A hash of words. The last round spreads the difference between ids that are counted up.
fn mixed(seed: u64, words: impl Iterator<Item = u64>, start: u64) -> u64 {
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(seed | 1);
        product as u64 ^ (product >> 64) as u64
    };
    let hash = words.fold(seed.rotate_left(32) ^ start, mix);
    mix(hash, hash >> 32)
}
