//! Matrix products, through the `gemm` crate on the calling thread.
#![allow(unsafe_code)]

use gemm::Parallelism;

use super::{Mat, MatMut};

/// `dst = factor · lhs · rhs`
pub fn multiply(dst: MatMut<'_>, factor: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
    product(dst, factor, lhs, rhs, false);
}

/// `dst += factor · lhs · rhs`
pub fn multiply_add(dst: MatMut<'_>, factor: f32, lhs: Mat<'_>, rhs: Mat<'_>) {
    product(dst, factor, lhs, rhs, true);
}

fn product(mut dst: MatMut<'_>, factor: f32, lhs: Mat<'_>, rhs: Mat<'_>, adds: bool) {
    let (rows, cols, inner) = (lhs.rows(), rhs.cols(), lhs.cols());
    assert!(inner == rhs.rows() && rows == dst.rows() && cols == dst.cols(), "shapes of a product fit");
    let (to, to_row) = dst.parts();
    let (left, left_row, left_col) = lhs.parts();
    let (right, right_row, right_col) = rhs.parts();
    // SAFETY: `Mat` and `MatMut` checked when made that every element of their rows × cols lies in their slices, and that
    // no two elements of `dst` share a place; `dst` is borrowed mutably, so it overlaps neither side.
    unsafe {
        gemm::gemm(
            rows,
            cols,
            inner,
            to,
            1,
            to_row,
            adds,
            left,
            left_col,
            left_row,
            right,
            right_col,
            right_row,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::testing::{assert_close, numbers};

    fn plain(dst: &mut [f32], factor: f32, lhs: &[f32], rhs: &[f32], (rows, inner, cols): (usize, usize, usize)) {
        for i in 0..rows {
            for j in 0..cols {
                dst[i * cols + j] += factor * (0..inner).map(|k| lhs[i * inner + k] * rhs[k * cols + j]).sum::<f32>();
            }
        }
    }

    #[test]
    fn a_product_equals_its_plain_twin_at_odd_sizes() {
        for (rows, inner, cols) in [(0, 3, 2), (1, 1, 1), (3, 5, 7), (17, 33, 16), (31, 8, 65), (5, 0, 4), (70, 64, 70)]
        {
            let (lhs, rhs) = (numbers(rows * inner, 1), numbers(inner * cols, 2));
            let (mut got, mut wanted) = (numbers(rows * cols, 3), numbers(rows * cols, 3));
            let (left, right) = (Mat::new(&lhs, rows, inner), Mat::new(&rhs, inner, cols));
            multiply_add(MatMut::new(&mut got, rows, cols), 0.5, left, right);
            plain(&mut wanted, 0.5, &lhs, &rhs, (rows, inner, cols));
            assert_close(&got, &wanted, 1e-5);
            multiply(MatMut::new(&mut got, rows, cols), 0.5, left, right);
            wanted.fill(0.0);
            plain(&mut wanted, 0.5, &lhs, &rhs, (rows, inner, cols));
            assert_close(&got, &wanted, 1e-5);
        }
    }

    #[test]
    fn transposed_and_strided_sides_are_read_in_place() {
        let (lhs, rhs) = (numbers(6 * 10, 4), numbers(9 * 10, 5));
        let (mut got, mut wanted) = (vec![0.0; 4 * 9], vec![0.0; 4 * 9]);
        // rows 1..5 and columns 2..7 of both
        let left = Mat::new(&lhs, 6, 10).block(1..5, 2..7);
        let right = Mat::new(&rhs, 9, 10).block(0..9, 2..7);
        multiply(MatMut::new(&mut got, 4, 9), 1.0, left, right.t());
        for i in 0..4 {
            for j in 0..9 {
                wanted[i * 9 + j] = (2..7).map(|k| lhs[(i + 1) * 10 + k] * rhs[j * 10 + k]).sum();
            }
        }
        assert_close(&got, &wanted, 1e-5);
    }
}
