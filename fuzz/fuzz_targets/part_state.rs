#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| eventexport::fuzzing::part_state(data));
