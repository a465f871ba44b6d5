#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| eventexport::fuzzing::session_list(data));
