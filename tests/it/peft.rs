//! Adapters written by PEFT give PEFT's logits, and ours read back.
