//! Seeded random numbers and bytes, so that a failure can be played again.

use crate::amount::amount;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// From the environment's DFS_TEST_SEED, or else from `default`. Prints it, for the report of a failure.
    pub fn seeded(default: u64) -> Rng {
        let seed = amount("DFS_TEST_SEED", default);
        println!("seed {seed}: DFS_TEST_SEED={seed} plays this run again");
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// `len` bytes that no compressor would shorten.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.bits().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(Rng::new(7).bytes(1001), Rng::new(7).bytes(1001));
        assert_ne!(Rng::new(7).bytes(1001), Rng::new(8).bytes(1001));
        assert_eq!(Rng::new(7).bytes(1001).len(), 1001);
    }
}
