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
        // inside `dispatch` the compiler may use all vector instructions of the machine
        pulp::Arch::new().dispatch(|| self.apply_in(xs));
    }

    #[inline(always)]
    fn apply_in(self, xs: &mut [f32]) {
        // one draw of 64 bits decides four numbers, to 1/65536
        let dropped = (self.rate * 65536.0) as u32;
        let grown = 1.0 / (1.0 - self.rate);
        for (block, numbers) in xs.chunks_mut(4 * DRAWS).enumerate() {
            let mut chances = [0; 4 * DRAWS];
            for (i, four) in chances.chunks_exact_mut(4).enumerate() {
                let counter = (block * DRAWS + i) as u64;
                let draw = mix(self.key.wrapping_add(counter.wrapping_mul(GOLDEN)));
                four.iter_mut().enumerate().for_each(|(j, chance)| *chance = (draw >> (16 * j)) as u32 & 0xffff);
            }
            for (x, chance) in numbers.iter_mut().zip(chances) {
                *x *= if chance < dropped { 0.0 } else { grown };
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

/// Draws made at once.
const DRAWS: usize = 16;

/// 2⁶⁴ / golden ratio: consecutive counters land far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
#[inline]
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
