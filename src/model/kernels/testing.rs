//! What the tests of kernels and layers share.

/// Around the widths of vectors, and beyond a few of them.
pub(in crate::model) const ODD_LENGTHS: std::ops::RangeInclusive<usize> = 1..=70;

/// Pseudo-random numbers in −1..1, the same for the same seed.
pub(in crate::model) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let number = |i: usize| super::mix(super::mix(seed).wrapping_add(i as u64));
    (0..len).map(|i| (number(i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

pub(in crate::model) fn assert_close(got: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(got.len(), wanted.len());
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let allowed = tolerance * wanted.abs().max(1.0);
        assert!((got - wanted).abs() <= allowed, "element {i}: got {got}, wanted {wanted}");
    }
}
