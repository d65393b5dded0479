//! See `msb_sync::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| msb_sync::fuzzing::run("trust", data));
