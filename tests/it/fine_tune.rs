//! Fine-tuning runs: learning, resuming, reproducibility, gradients.
