//! Oblivious transfer: base OTs, the extension that multiplies them, and the tables built from random OTs.
