//! Strided views of slices, checked once when made, so that the products on them need no further checks.

use std::ops::Range;

/// Element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Element (i, j) is `data[i * row_stride + j]`; no two elements share a place.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row after row.
    ///
    /// # Panics
    /// If `data` is too short, here and in all that follow.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(holds(data.len(), rows, cols, row_stride), "{rows}x{cols} by {row_stride} in {}", data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// Transposed.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The block of `rows` × `cols`.
    #[must_use]
    pub fn block(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        let start = rows.start * self.row_stride + cols.start * self.col_stride;
        Self { data: self.data.get(start..).unwrap_or_default(), rows: rows.len(), cols: cols.len(), ..self }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    /// A row of a view that is not transposed.
    pub fn row(&self, row: usize) -> &'a [f32] {
        assert!(self.col_stride == 1 && row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.row_stride..][..self.cols]
    }

    #[inline]
    pub fn at(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }

    /// All numbers from the first row on, and how far apart rows begin; of a view that is not transposed.
    pub(super) fn rows_from_first(&self) -> (&'a [f32], usize) {
        assert!(self.col_stride == 1, "a view that is not transposed");
        (self.data, self.row_stride)
    }

    /// Its numbers row after row; of a view that is not transposed.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(self.rows * self.cols);
        (0..self.rows).for_each(|row| numbers.extend_from_slice(self.row(row)));
        numbers
    }

    pub(super) fn parts(&self) -> (*const f32, isize, isize) {
        (self.data.as_ptr(), self.row_stride as isize, self.col_stride as isize)
    }
}

impl<'a> MatMut<'a> {
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert!(holds(data.len(), rows, cols, cols), "{rows}x{cols} in {}", data.len());
        Self { data, rows, cols, row_stride: cols }
    }

    pub fn block(&mut self, rows: Range<usize>, cols: Range<usize>) -> MatMut<'_> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        assert!(cols.start <= cols.end && cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        let start = rows.start * self.row_stride + cols.start;
        let (rows, cols, row_stride) = (rows.len(), cols.len(), self.row_stride);
        MatMut { data: self.data.get_mut(start..).unwrap_or_default(), rows, cols, row_stride }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &mut self.data[row * self.row_stride..][..self.cols]
    }

    pub(super) fn parts(&mut self) -> (*mut f32, isize) {
        (self.data.as_mut_ptr(), self.row_stride as isize)
    }
}

/// Whether every element of such a view lies within `len` numbers, and rows do not overlap.
fn holds(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (cols <= row_stride && (rows - 1) * row_stride + cols <= len)
}
