//! Randomness as a seam. A thread keeps a few numbers that it has drawn and not given out yet.

use std::cell::RefCell;

/// A source of random numbers.
pub trait Entropy: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;

    /// A number below `bound`; zero for zero.
    fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// A number from 0 up to, not including, 1.
    fn fraction(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The operating system's random numbers.
#[derive(Debug, Default)]
pub struct SystemEntropy;

/// Bytes drawn at once: each message needs a number, and each draw is a system call.
const DRAW_SIZE: usize = 512;

thread_local! {
    static DRAWN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        DRAWN.with_borrow_mut(|drawn| {
            if drawn.is_empty() {
                drawn.resize(DRAW_SIZE, 0);
                if getrandom::fill(drawn).is_err() {
                    // Without random numbers the ids would still be unique: they grow.
                    drawn.clear();
                }
            }
            let number = drawn.last_chunk().copied().map_or(0, u64::from_ne_bytes);
            drawn.truncate(drawn.len().saturating_sub(8));
            number
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_is_given_out_twice() {
        let draws = DRAW_SIZE / 8 * 3;
        let numbers: BTreeSet<u64> = (0..draws).map(|_| SystemEntropy.next_u64()).collect();
        assert_eq!(numbers.len(), draws);
        assert!(!numbers.contains(&0));
    }
}
