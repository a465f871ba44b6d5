//! The command line: arguments as typed become validated settings; one file per subcommand.

pub mod crd;
