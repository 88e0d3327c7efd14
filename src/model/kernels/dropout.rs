//! Dropout whose mask is a function of a key and a place, so that the backward pass makes it again instead of keeping it.

/// One draw: the same key gives the same mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of numbers set to zero; the others grow by 1 / (1 − rate).
    pub rate: f32,
    pub key: u64,
}

impl Dropout {
    /// `xs` times its mask: the forward pass, and of a gradient the backward one.
    pub fn apply(self, xs: &mut [f32]) {
        // one draw of 64 bits decides four numbers, to 1/65536
        let dropped = (self.rate * 65536.0) as u64;
        let grown = 1.0 / (1.0 - self.rate);
        for (i, four) in xs.chunks_mut(4).enumerate() {
            let draw = mix(self.key.wrapping_add((i as u64).wrapping_mul(GOLDEN)));
            for (j, x) in four.iter_mut().enumerate() {
                *x *= if draw >> (16 * j) & 0xffff < dropped { 0.0 } else { grown };
            }
        }
    }

    /// The mask alone: zeros, and 1 / (1 − rate).
    pub fn mask(self, len: usize) -> Vec<f32> {
        let mut mask = vec![1.0; len];
        self.apply(&mut mask);
        mask
    }
}

/// 2⁶⁴ / golden ratio: consecutive counters land far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_its_share_and_depends_on_the_key_alone() {
        for rate in [0.0, 0.1, 0.5, 0.9] {
            let mask = Dropout { rate, key: 7 }.mask(100_003);
            let dropped = mask.iter().filter(|x| **x == 0.0).count() as f32 / mask.len() as f32;
            assert!((dropped - rate).abs() < 0.01, "{dropped} dropped at {rate}");
            let mean = mask.iter().sum::<f32>() / mask.len() as f32;
            assert!((mean - 1.0).abs() < 0.02, "mean {mean} at {rate}");
            assert_eq!(mask, Dropout { rate, key: 7 }.mask(100_003));
        }
        let half = |key| Dropout { rate: 0.5, key }.mask(1000);
        let agree = half(7).iter().zip(half(8)).filter(|(a, b)| **a == *b).count();
        assert!((400..600).contains(&agree), "{agree} of 1000 agree under neighbouring keys");
    }
}
