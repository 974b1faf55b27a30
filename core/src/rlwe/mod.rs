//! Ring-LWE encryption: linear layers and slot products on encrypted masks.
