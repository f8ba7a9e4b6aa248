//! Tables whose keys are random already, so that nobody can choose them to collide: ids that are made here, and keyed hashes.
//!
//! To hash such a key again would cost more than all the rest of a look-up.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

pub(crate) type RandomKeyMap<K, V> = HashMap<K, V, BuildHasherDefault<KeyAsHash>>;
pub(crate) type RandomKeySet<K> = HashSet<K, BuildHasherDefault<KeyAsHash>>;

/// Folds a key into a number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyAsHash(u64);

impl Hasher for KeyAsHash {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 ^= key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
