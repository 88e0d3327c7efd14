//! Evaluation equals seqeval and scikit-learn.
