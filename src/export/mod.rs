//! The engine: windows → decide → transfer → receipt; the journal, the session budget, the proof.

pub mod window;
