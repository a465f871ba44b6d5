//! The command line as typed.

fn main() {}
