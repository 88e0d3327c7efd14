//! A row-major matrix of f32: how logits leave the engine, so that the layers above see no tensor.

/// `rows × columns` numbers, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    columns: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// # Panics
    /// If `data` is not a whole number of rows.
    pub fn new(columns: usize, data: Vec<f32>) -> Self {
        assert!(columns > 0 && data.len().is_multiple_of(columns), "{} numbers in rows of {columns}", data.len());
        Self { columns, data }
    }

    pub fn rows(&self) -> usize {
        self.data.len() / self.columns
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.columns..(row + 1) * self.columns]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.columns..(row + 1) * self.columns]
    }

    pub fn iter_rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.columns)
    }

    pub fn data(&self) -> &[f32] {
        &self.data
    }
}
